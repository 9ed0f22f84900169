"""Good enough? Each gate of a recipe against the figures of a run; what was not shown does not pass.

**Keeps** missing, NaN, infinite, not a number, impossible, stale, of other weights, of another protocol or device, no
gates at all: each fails with its own reason and remedy (``tests/evaluation/test_gates.py``). Pure: reads no file.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal

from mobilevd.evaluation.fingerprint import differing
from mobilevd.evaluation.intervals import clips_to_decide
from mobilevd.settings import Gate

PASS, FAIL, UNDECIDED = "pass", "fail", "undecided"
HOST = "profile.host-cpu."  # figures of the machine that ran the flow; they satisfy no other device's gate
CLIPS = "evaluate.clips"
DISTANCES = ("fvd", "fvd_low", "fvd_high", "fvd_to_reconstructed")  # below zero only by mistake
AMOUNTS = ("_ms", "_mb", "_s", "flops")
CLOCKS_APART_S = 5.0  # that two machines' clocks may differ by
CHAMPION, TEACHER = "champion", "teacher"


@dataclass(frozen=True)
class Origin:
    """What one figure was measured on. ``judged``: digests by stage of what it was measured on; ``shipped``: of what
    that stage left; times in s since 1970: of the measurement, and when the weights were made. ``kind`` of the device:
    host, emulator or phone."""

    judged: Mapping[str, str] = field(default_factory=dict)
    shipped: Mapping[str, str] = field(default_factory=dict)
    measured_at: float = 0.0
    made_at: float = 0.0
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    device: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Champion:
    """Figures of the model to beat, and where each came from; ``none_yet``: it was looked for, and there is none."""

    figures: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, Origin] = field(default_factory=dict)
    none_yet: bool = False


@dataclass(frozen=True)
class Row:
    """One gate's outcome. Numbers are None where there is no finite one to show.

    ``clips``: how many clips would decide an undecided gate.
    """

    metric: str
    value: float | None
    limit: float | None
    relation: str
    passed: bool
    reason: str
    why: str = ""
    status: Literal["pass", "fail", "undecided"] = FAIL
    low: float | None = None
    high: float | None = None
    clips: int | None = None


@dataclass(frozen=True)
class Verdict:
    """The outcome of all gates: passed only when there is at least one and every one of them passed."""

    passed: bool
    rows: tuple[Row, ...]


def judge(
    gates: Sequence[Gate],
    figures: Mapping[str, Any],
    champion: Champion | None = None,
    origins: Mapping[str, Origin] | None = None,
) -> Verdict:
    """Hold every gate against the figures, their intervals (``<metric>_low``, ``_high``) and their origins.

    Metric names are matched whole: a host's ``profile.host-cpu.p50_ms`` never stands in for a phone's. Without a
    ``champion`` no gate that is held against it passes.
    """
    if not gates:
        reason = "no gate was given, so nothing was shown to be good enough; add gates to the recipe"
        return Verdict(False, (Row("(no gates)", None, None, "", False, reason),))
    case = _Case(figures, champion, origins or {})
    rows = tuple(case.row(gate) for gate in gates)
    return Verdict(all(row.passed for row in rows), rows)


def reference(gate: Gate) -> str | None:
    """The figure that a gate is held against, by its name; None for a threshold."""
    if gate.of in (CHAMPION, TEACHER):
        return gate.metric if gate.of == CHAMPION else f"{TEACHER}.{gate.metric.rpartition('.')[2]}"
    return gate.of


@dataclass(frozen=True)
class _Case:
    """The figures of one run beside those of its champion."""

    figures: Mapping[str, Any]
    champion: Champion | None
    origins: Mapping[str, Origin]

    def row(self, gate: Gate) -> Row:
        """One gate's value, limit and verdict, or every reason why there is none."""
        value, relation = _number(self.figures.get(gate.metric)), _relation(gate)
        faults = [_fault(gate.metric, self.figures), self._fault_of_origin(gate)]
        faults += [_fault_of_interval(gate.metric, self.figures)] if gate.by == "interval" else []
        if not any(faults) and gate.of == CHAMPION and self.champion is not None and self.champion.none_yet:
            return Row(gate.metric, value, None, relation, True, "there is no champion yet", gate.why, PASS)
        faults += self._faults_of_reference(gate)
        limits = None if any(faults[2:]) else self._limits(gate)
        limit = limits[0] if limits else None
        if any(faults) or value is None or limits is None:
            return Row(gate.metric, value, limit, relation, False, "; ".join(filter(None, faults)), gate.why)
        return self._decided(gate, value, limits, relation)

    def _decided(self, gate: Gate, value: float, limits: tuple[float, float, float], relation: str) -> Row:
        """On the interval: the worse end passes the harder limit, the better end fails the easier one, or neither."""
        limit, hard, easy = limits
        low, high = _bounds(gate.metric, self.figures) if gate.by == "interval" else (None, None)
        worse, better = (value, value) if low is None else (low, high) if gate.wants_more else (high, low)
        status = PASS if _holds(gate, worse, hard) else FAIL if not _holds(gate, better, easy) else UNDECIDED
        reason = _comparison(gate, value if low is None else worse if status == PASS else better, limit)
        clips = None
        if status == UNDECIDED:
            clips = self._clips(gate, value, worse if _holds(gate, value, limit) else better, limit, (hard, easy))
            reason = f"{value:g} ({low:g} to {high:g}) may lie on either side of {limit:g}; {_advice(clips)}"
        numbers = {"low": low, "high": high, "clips": clips}
        return Row(gate.metric, value, limit, relation, status == PASS, reason, gate.why, status, **numbers)

    def _clips(self, gate: Gate, value: float, edge: float, limit: float, limits: tuple[float, float]) -> int | None:
        """The reference's own interval narrows alike, so its half is added to the figure's."""
        now = _number(self.figures.get(CLIPS))
        hard, easy = limits
        if now is None:
            return None
        spread = abs(edge - value) + abs((hard if _holds(gate, value, limit) else easy) - limit)
        return clips_to_decide(value, value + spread, limit, int(now))

    def _fault_of_origin(self, gate: Gate) -> str | None:
        origin = self.origins.get(gate.metric)
        fault = _fault_of_origin(gate.metric, origin)
        return fault or (_fault_of_kind(gate, origin) if gate.metric in self.figures else None)

    def _faults_of_reference(self, gate: Gate) -> list[str | None]:
        if gate.of is None:
            return []
        name, known = self._reference(gate)
        if gate.of == CHAMPION and self.champion is None:
            return ["no limit without its reference: no champion was given; judge again with the champion's report"]
        fault = _fault(name, known) or (_fault_of_interval(name, known) if gate.by == "interval" else None)
        if fault is None and known[name] <= 0 and gate.kind in ("max_ratio", "max_worse_percent", "min_better_percent"):
            fault = f"{name} is {known[name]:g}, and a ratio needs a positive figure; gate on an absolute one"
        fault = fault or (self._other_protocol(gate.metric) if gate.of == CHAMPION else None)
        return [f"no limit without its reference: {fault}" if fault else None]

    def _other_protocol(self, metric: str) -> str | None:
        mine, its = (found.get(metric, Origin()) for found in (self.origins, self.champion.origins))
        if fields := differing(mine.fingerprint, its.fingerprint):
            where = "; score both under one protocol"
            return f"the champion's {metric} is of another protocol, which differs in {', '.join(fields)}{where}"
        if mine.device != its.device:
            told = f"{its.device or 'a device not told'}, this one on {mine.device or 'a device not told'}"
            return f"the champion's {metric} was measured on {told}; measure both on one class of device"
        return None

    def _reference(self, gate: Gate) -> tuple[str, Mapping[str, Any]]:
        if gate.of == CHAMPION:
            return reference(gate), self.champion.figures if self.champion else {}
        return reference(gate), self.figures

    def _limits(self, gate: Gate) -> tuple[float, float, float] | None:
        """The limit by the reference's figure, by the end of its interval that is hardest to meet, and easiest."""
        if gate.of is None:
            return (_limit(gate, 0.0),) * 3
        name, known = self._reference(gate)
        low, high = _bounds(name, known) if gate.by == "interval" else (known[name],) * 2
        found = [_number(_limit(gate, float(at))) for at in (known[name], low, high)]
        if None in found:
            return None
        limit, *ends = found
        return limit, (max if gate.wants_more else min)(ends), (min if gate.wants_more else max)(ends)


def _fault(metric: str, figures: Mapping[str, Any]) -> str | None:
    """Why this metric cannot be compared, with what to do about it; None when it can."""
    if metric not in figures:
        return _missing(metric, figures)
    value = figures[metric]
    if isinstance(value, bool) or not isinstance(value, Real):
        return f"{metric} is not a number but {value!r}; the stage that reports it must give one figure"
    if math.isnan(value):
        return f"{metric} is NaN: its computation broke down; look at the samples and losses of the run before it"
    if math.isinf(value):
        return f"{metric} is infinite: something overflowed or was divided by zero; look at the stage that reports it"
    if value < 0 and metric.rsplit(".", 1)[-1] in DISTANCES:
        return f"{metric} is {value:g}, but a Fréchet distance cannot be negative; compute it anew, stably"
    if value < 0 and metric.endswith(AMOUNTS):
        return f"{metric} is {value:g}, but an amount cannot be negative; measure it again"
    return None


def _fault_of_origin(metric: str, origin: Origin | None) -> str | None:
    if origin is None:
        return None
    if others := sorted(s for s, digest in origin.judged.items() if origin.shipped.get(s, digest) != digest):
        return f"{metric} was measured on another artifact of {', '.join(others)} than would ship; measure it again"
    if origin.measured_at + CLOCKS_APART_S < origin.made_at:
        late = origin.made_at - origin.measured_at
        return f"{metric} is stale: measured {late:.0f} s before the weights were made; measure it again"
    return None


def _fault_of_kind(gate: Gate, origin: Origin | None) -> str | None:
    kind = origin.kind if origin is not None else ""
    if gate.measured_on in (None, kind):
        return None
    where = f"on a device of class {kind}" if kind else "where nothing says on what"
    wanted = f"the gate accepts class {gate.measured_on} only; name such a device's figure"
    return f"{gate.metric} was measured {where}, but {wanted}"


def _fault_of_interval(metric: str, figures: Mapping[str, Any]) -> str | None:
    if any(_fault(f"{metric}{end}", figures) for end in ("_low", "_high")):
        return f"{metric} has no interval; report {metric}_low and {metric}_high, or gate on the point"
    low, high = _bounds(metric, figures)
    exchanged = f"{metric} has an interval whose ends are exchanged, {low:g} to {high:g}; report the lower one as _low"
    return exchanged if low > high else None


def _missing(metric: str, figures: Mapping[str, Any]) -> str:
    device, _, figure = metric.removeprefix("profile.").rpartition(".")
    if metric.startswith("profile.") and not metric.startswith(HOST):
        host = (
            f" ({HOST}{figure} was, but a host's figure says nothing about {device})"
            if HOST + figure in figures
            else ""
        )
        return f"{metric} was not measured{host}; add {device!r} to profile.devices and run on that device"
    near = difflib.get_close_matches(metric, list(figures), n=3)
    hint = f"; measured under like names: {', '.join(near)}" if near else ""
    return f"{metric} was not measured{hint}; correct the gate's name or add the stage that reports it"


def _limit(gate: Gate, reference: float) -> float:
    amount, sign = getattr(gate, gate.kind), -1 if gate.better == "higher" else 1
    return {
        "max": amount,
        "min": amount,
        "max_ratio": amount * reference,
        "max_worse": reference + sign * amount,
        "max_worse_percent": reference * (1 + sign * amount / 100),
        "min_better": reference - sign * amount,
        "min_better_percent": reference * (1 - sign * amount / 100),
    }[gate.kind]


def _holds(gate: Gate, value: float, limit: float) -> bool:
    return value >= limit if gate.wants_more else value <= limit


def _bounds(metric: str, figures: Mapping[str, Any]) -> tuple[float, float]:
    return float(figures[f"{metric}_low"]), float(figures[f"{metric}_high"])


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        return None
    return float(value)


def _relation(gate: Gate) -> str:
    amount = f"{getattr(gate, gate.kind):g}{' %' if gate.kind.endswith('percent') else ''}"
    whole = ", all of its interval" if gate.by == "interval" else ""
    if gate.kind in ("max", "min"):
        return f"at {'most' if gate.kind == 'max' else 'least'} {amount}{whole}"
    if gate.kind == "max_ratio":
        return f"at most {amount} x {gate.of}{whole}"
    words = "at most {} worse than {}" if gate.kind.startswith("max") else "at least {} better than {}"
    return words.format(amount, gate.of) + whole


def _comparison(gate: Gate, value: float, limit: float) -> str:
    if _holds(gate, value, limit):
        return f"{value:g} is {'at least' if gate.wants_more else 'at most'} {limit:g}"
    return f"{value:g} is {'below' if gate.wants_more else 'above'} {limit:g}"


def _advice(clips: int | None) -> str:
    return f"about {clips} clips would decide" if clips else "no number of clips would decide"
