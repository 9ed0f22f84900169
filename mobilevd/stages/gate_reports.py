"""Reports judged outside of a run: ``mobilevd gate`` holds report.json, or a run's gates.json, against a list of gates.

**Keeps** figures are taken as they are written, so that each that says nothing is refused by the gate with its own
reason (``tests/stages/test_gate_reports.py``).
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mobilevd.artifacts import MANIFEST, file_sha256, listed
from mobilevd.device.animate import CONFIG
from mobilevd.errors import IntegrityError, MobileVDError
from mobilevd.evaluation import fingerprint
from mobilevd.evaluation.gates import CLIPS, TEACHER, Champion, Origin, Verdict, judge
from mobilevd.settings import Gate
from mobilevd.stages import lineage, models
from mobilevd.stages.gate import VERDICT_FILE, origin_of

OURS = "report.json of `mobilevd evaluate` or `ucf101 score`, or a run's gates.json"


class Told(NamedTuple):
    """One report: figures under the names that gates use, where each came from, the protocol, and what was judged.

    ``verdict_sha256``: of the file, when it is a run's own report.
    """

    figures: dict[str, Any]
    origins: dict[str, Origin]
    protocol: Mapping[str, Any]
    judged: str | None = None
    verdict_sha256: str | None = None


def run(
    report: Path,
    gates: tuple[Gate, ...],
    contender: str = "student",
    teacher: Path | None = None,
    champion: Path | None = None,
    model: str | None = None,
) -> Verdict:
    """Hold the figures of ``report`` against ``gates``.

    An evaluation's figures go by ``<contender>.<figure>``, those of the ``teacher``'s report by ``teacher.<figure>``.
    ``model``: the bundle that would ship, as ``models.folder`` takes it; a report that is not its own passes no gate.
    Errors: IntegrityError for a file that is no report, or a teacher's of another protocol; MobileVDError for a model
    that is no bundle.
    """
    own = read(report, contender)
    figures, origins = dict(own.figures), own.origins
    if teacher:
        other = read(teacher, TEACHER)
        fingerprint.require_same(own.protocol, other.protocol)
        figures = other.figures | figures
    if model:
        tie = _tie(own, report, models.folder(model))
        origins = {name: replace(origin, **tie) for name, origin in origins.items()}
    best = read(champion, contender) if champion else None
    return judge(gates, figures, best and Champion(best.figures, best.origins), origins)


def read(path: Path, contender: str) -> Told:
    """A report as it is written, whatever its figures are. Errors: IntegrityError when it is none, or was edited."""
    try:
        told = json.loads(Path(path).read_bytes())
        figures, protocol = told["figures"].items(), told.get("fingerprint", {})
    except FileNotFoundError:
        raise IntegrityError("There is no such report", got=str(path), allowed=OURS) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise IntegrityError("This is no report with figures", got=f"{path}: {error!r}", allowed=OURS) from None
    if told.get("fingerprint_sha256", digest := fingerprint.digest(protocol)) != digest:
        raise IntegrityError("The report's fingerprint was changed", got=digest, where=f"{path}: evaluate again")
    if "verdict" in told:
        origins = {name: origin_of(name, protocol, told.get("devices", {})) for name, _ in figures}
        return Told(dict(figures), origins, protocol, verdict_sha256=file_sha256(path))
    flat = {f"{contender}.{name}": value for figure, values in figures for name, value in _flat(figure, values)}
    origins = dict.fromkeys(flat, Origin(fingerprint=protocol))
    return Told(flat | {CLIPS: protocol.get("clips")}, origins, protocol, told.get("judged"))


def _flat(name: str, figure: Any) -> list[tuple[str, Any]]:
    """A figure and the ends of its interval; what is no figure stays as it is, for the gate to refuse."""
    if not isinstance(figure, dict):
        return [(name, figure)]
    ends = [(f"{name}_{end}", figure[end]) for end in ("low", "high") if figure.get(end) is not None]
    return [(name, figure.get("value")), *ends]


def _tie(told: Told, report: Path, bundle: Path) -> dict[str, Any]:
    """What ties a report to the bundle: a run's, that this very file lies in it; an evaluation's, the bundle it names.

    One of folders of films names none: it has to be younger than the weights, by the lineage's own times.
    """
    if missing := [name for name in (CONFIG, MANIFEST) if not (bundle / name).is_file()]:
        allowed, got = f"a folder with {CONFIG} and {MANIFEST}", f"{bundle} without {', '.join(missing)}"
        raise MobileVDError("This folder is no bundle", got=got, allowed=allowed, where="--model")
    if told.verdict_sha256:
        shipped = listed(bundle / MANIFEST).get(VERDICT_FILE, "")
        return {"judged": {"bundle": told.verdict_sha256}, "shipped": {"bundle": shipped}}
    if told.judged:
        return {"judged": {"bundle": told.judged}, "shipped": {"bundle": file_sha256(bundle / MANIFEST)}}
    return {"measured_at": report.stat().st_mtime, "made_at": lineage.made_at(bundle)}
