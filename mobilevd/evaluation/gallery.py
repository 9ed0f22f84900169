"""The page that people open after a run: verdict, gates, references, costs, and every clip playing beside its rivals.

**Keeps** one file without scripts or addresses: it opens from a disk without a network, and no text of a record becomes
markup (``tests/evaluation/test_gallery.py``).
"""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from numbers import Real
from types import MappingProxyType
from typing import Any

from mobilevd.errors import IntegrityError
from mobilevd.evaluation.fingerprint import digest

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
WEBP = b"WEBP"
SPELLED = {
    "fvd": "FVD",
    "tflops": "TFLOPs",
    "params": "parameters",
    "m": "(M)",
    "mb": "(MB)",
    "ms": "(ms)",
    "db": "(dB)",
}
GATE_HEADS = {"metric": "Metric", "value": "Value", "relation": "Wanted", "limit": "Limit", "passed": "", "why": "Why"}


@dataclass(frozen=True)
class Clip:
    """One animated WebP in which all ``columns`` play side by side and in step; ``distance`` sorts, the worst first.

    ``distances`` by column are told; ``strip`` (a row of frames per column) and ``difference`` (each column less the
    first, in step) are folded away under it.
    """

    name: str
    caption: str
    columns: list[str]
    webp: bytes
    distance: float | None = None
    distances: dict[str, float] = field(default_factory=dict)
    strip: bytes = b""
    difference: bytes = b""


LEADS = {
    "Gates": "What this run had to reach before it may ship.",
    "Scores": "Each network beside the references that tell what its figure is worth.",
    "Cost": "One evaluation of the network on one clip, after each stage.",
    "Clips": "All columns of a clip play in step, from the same first frame.",
    "Protocol": "Scores are compared only where all of this is the same.",
}


def page(
    title: str,
    verdict: str | None,
    gates: list[dict],
    scores: list[dict],
    costs: list[dict],
    clips: list[Clip],
    protocol: Mapping[str, Any] | None = None,
    leads: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The whole page as HTML.

    Args:
        verdict: "passed", or anything else for a run that was refused; None when nothing was judged.
        gates: rows of the gate report (metric, value, limit, relation, passed, reason, why).
        scores: a row per reference or network, its name first; the same keys in all.
        costs: a row per stage, its name first.
        clips: shown in this order, those with a distance first and sorted from the largest down.
        protocol: the fields of the scores' fingerprint, in ``Fingerprint``'s own order.
        leads: a section's heading → what its first line says instead of ``LEADS``.
    """
    said = {**LEADS, **leads}
    if any(clip.distance is not None for clip in clips):
        said["Clips"] += " The worst come first."
    bodies = {
        "Gates": _gate_table(gates),
        "Scores": _table(scores),
        "Cost": _table(costs),
        "Clips": "".join(_figure(clip) for clip in _worst_first(clips)),
        "Protocol": _protocol(protocol or {}),
    }
    parts = [_header(title, verdict, gates, protocol or {})]
    parts += [_section(heading, said[heading], body) for heading, body in bodies.items()]
    return _PAGE.format(policy=POLICY, title=escape(title), style=_STYLE, body="\n".join(filter(None, parts)))


def text(value: Any) -> str:
    """A cell as people read it: four significant digits, thin groups of thousands, a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, Real):
        return str(value)
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.4g}" if abs(value) >= 1e-4 else f"{value:.2e}"


def _header(title: str, verdict: str | None, gates: Sequence[dict], protocol: Mapping[str, Any]) -> str:
    under = f'<p class="verdict">{escape(_in_short(protocol))}</p>' if protocol else ""
    if verdict is None:
        return f'<header class="good"><p class="kicker">Comparison</p><h1>{escape(title)}</h1>{under}</header>'
    passed = sum(bool(row["passed"]) for row in gates)
    kind = "good" if verdict == "passed" else "bad"
    return (
        f'<header class="{kind}"><p class="kicker">Run report</p><h1>{escape(title)}</h1>'
        f'<p class="verdict"><span class="pill {kind}">{escape(verdict)}</span> '
        f"{passed} of {len(gates)} gates passed</p>{under}</header>"
    )


def _in_short(protocol: Mapping[str, Any]) -> str:
    told = "{clips} clips of {frames} frames at {fps:g} fps, {width}x{height}".format_map(protocol)
    return f"{told}; fingerprint {digest(protocol)[:12]}"


def _protocol(protocol: Mapping[str, Any]) -> str:
    return _table(
        [{"field": name, "value": value if value is None else str(value)} for name, value in protocol.items()]
    )


def _section(heading: str, lead: str, body: str) -> str:
    return f"<section><h2>{heading}</h2><p class='lead'>{lead}</p>{body}</section>" if body else ""


def _gate_table(gates: Sequence[dict]) -> str:
    if not gates:
        return ""
    heads = "".join(f"<th{_side(key in ('value', 'limit'))}>{head}</th>" for key, head in GATE_HEADS.items())
    return _framed(f"<thead><tr>{heads}</tr></thead><tbody>{''.join(map(_gate_row, gates))}</tbody>")


def _gate_row(row: dict) -> str:
    kind, word = ("good", "pass") if row["passed"] else ("bad", row.get("status", "fail"))
    why = f"<div>{escape(row.get('why') or '')}</div>"
    reason = f'<div class="reason">{escape(row.get("reason") or "")}</div>'
    return (
        f'<tr class="{kind}"><th scope="row"><code>{escape(row["metric"])}</code></th>'
        f'<td class="number">{escape(text(row["value"]))}</td><td>{escape(row["relation"])}</td>'
        f'<td class="number">{escape(text(row["limit"]))}</td>'
        f'<td><span class="pill {kind}">{word}</span></td><td class="wide">{why}{reason}</td></tr>'
    )


def _table(rows: Sequence[dict]) -> str:
    if not rows:
        return ""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    numeric = {key: any(_is_number(row.get(key)) for row in rows) for key in keys}
    heads = "".join(f"<th{_side(numeric[key])}>{escape(_head(key))}</th>" for key in keys)
    body = "".join(f"<tr>{''.join(_cell(row, key, numeric[key], key == keys[0]) for key in keys)}</tr>" for row in rows)
    return _framed(f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody>")


def _cell(row: dict, key: str, numeric: bool, first: bool) -> str:
    shown = escape(text(row.get(key)))
    return f'<th scope="row">{shown}</th>' if first else f"<td{_side(numeric)}>{shown}</td>"


def _head(key: str) -> str:
    words = [SPELLED.get(word, word) for word in str(key).split("_")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])


def _side(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def _framed(inside: str) -> str:
    return f'<div class="frame"><table>{inside}</table></div>'


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _worst_first(clips: Sequence[Clip]) -> list[Clip]:
    return sorted(clips, key=lambda clip: -math.inf if clip.distance is None else clip.distance, reverse=True)


def _figure(clip: Clip) -> str:
    labels = "".join(f"<span>{escape(column)}</span>" for column in clip.columns)
    told = clip.distances or ({} if clip.distance is None else {"": clip.distance})
    pills = "".join(
        f' <span class="pill">{escape(f"distance {name}".strip())} {text(d)}</span>' for name, d in told.items()
    )
    folded = _folded(clip, "strip", "Frames", clip.strip) + _folded(clip, "difference", "Difference", clip.difference)
    return (
        f'<figure><div class="frame"><div class="stage" style="--columns:{len(clip.columns)}">'
        f'<div class="labels">{labels}</div>{_image(clip, "side by side", clip.webp)}</div></div>'
        f"<figcaption><b>{escape(clip.name)}</b> {escape(clip.caption)}{pills}</figcaption>{folded}</figure>"
    )


def _image(clip: Clip, what: str, data: bytes) -> str:
    if data[8:12] != WEBP:
        raise IntegrityError(f"The clip {clip.name} is no WebP", got=data[:12], allowed="an animated WebP")
    alt = escape(f"{clip.name}: {', '.join(clip.columns)} {what}")
    return f'<img alt="{alt}" src="data:image/webp;base64,{base64.b64encode(data).decode("ascii")}">'


def _folded(clip: Clip, what: str, heading: str, data: bytes) -> str:
    if not data:
        return ""
    return f'<details><summary>{heading}</summary><div class="stage">{_image(clip, what, data)}</div></details>'


_STYLE = """
:root {
  --paper: #f6f5f1; --card: #ffffff; --ink: #1b1c20; --soft: #66686f; --line: #e4e2db; --accent: #3f5bd9;
  --good: #14713f; --good-back: #dff3e6; --bad: #a9281f; --bad-back: #fbe4e1; --stripe: #faf9f6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #121316; --card: #1b1d22; --ink: #e9e9ec; --soft: #9a9ca5; --line: #2c2f37; --accent: #93a5ff;
    --good: #7fdca5; --good-back: #143423; --bad: #ff9c92; --bad-back: #43201d; --stripe: #1f2127;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 72px; }
header { background: var(--card); border: 1px solid var(--line); border-left: 6px solid var(--good);
  border-radius: 14px; padding: 26px 30px 22px; }
header.bad { border-left-color: var(--bad); }
.kicker { margin: 0; color: var(--accent); font-size: 12px; font-weight: 650; letter-spacing: .12em;
  text-transform: uppercase; }
h1 { margin: 4px 0 12px; font-size: 30px; line-height: 1.2; letter-spacing: -.015em; }
.verdict { margin: 0; color: var(--soft); }
h2 { margin: 44px 0 2px; font-size: 20px; letter-spacing: -.01em; }
.lead { margin: 0 0 14px; color: var(--soft); }
.pill { display: inline-block; padding: 1px 11px; border-radius: 999px; background: var(--line); font-size: 13px;
  font-weight: 600; white-space: nowrap; }
.pill.good { background: var(--good-back); color: var(--good); }
.pill.bad { background: var(--bad-back); color: var(--bad); }
header .pill { font-size: 16px; padding: 3px 15px; margin-right: 8px; }
.frame { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 14px; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 10px 16px; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-size: 12px; font-weight: 600; letter-spacing: .03em; vertical-align: bottom;
  background: var(--stripe); }
tbody th { font-weight: 600; min-width: 130px; }
tbody tr:last-child > * { border-bottom: 0; }
tbody tr.bad { box-shadow: inset 4px 0 0 var(--bad); }
.number { text-align: right; }
td.number { white-space: nowrap; }
.wide { min-width: 260px; }
.reason { color: var(--soft); font-size: 13px; }
tr.bad .reason { color: var(--bad); }
code { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
figure { margin: 0 0 26px; }
.stage { min-width: calc(var(--columns) * 150px); }
.labels { display: grid; grid-template-columns: repeat(var(--columns), 1fr); background: var(--stripe);
  border-bottom: 1px solid var(--line); color: var(--soft); font-size: 12px; font-weight: 600; text-align: center; }
.labels span { padding: 7px 4px; }
.stage img { display: block; width: 100%; height: auto; }
figcaption { padding: 8px 4px 0; color: var(--soft); font-size: 14px; }
details { padding: 4px; color: var(--soft); font-size: 14px; }
summary { cursor: pointer; }
figcaption b { color: var(--ink); font-weight: 600; margin-right: 6px; }
@media (max-width: 640px) { main { padding: 16px 12px 40px; } header { padding: 20px; } h1 { font-size: 24px; } }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
