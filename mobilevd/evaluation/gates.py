"""Good enough? Each gate of a recipe against the figures of a run; what was not measured does not pass.

**Keeps** missing, NaN, infinite, not a number, impossible, no gates at all: each fails with its own reason and remedy
(``tests/evaluation/test_gates.py``). Pure: no file is read or written here.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from mobilevd.params import Gate

HOST = "profile.host-cpu."  # figures of the machine that ran the flow; they satisfy no other device's gate
DISTANCES = ("fvd",)  # squared distances of means and covariances: below zero only by mistake
AMOUNTS = ("_ms", "_mb", "_s", "flops")


@dataclass(frozen=True)
class Row:
    """One gate's outcome. ``value`` and ``limit`` are None where there is no finite number to show."""

    metric: str
    value: float | None
    limit: float | None
    relation: str
    passed: bool
    reason: str
    why: str = ""


@dataclass(frozen=True)
class Verdict:
    """The outcome of all gates: passed only when there is at least one and every one of them passed."""

    passed: bool
    rows: tuple[Row, ...]


def judge(gates: Sequence[Gate], figures: Mapping[str, Any]) -> Verdict:
    """Compare each gate's metric with its limit, or with ``max_ratio`` times another metric of the same run.

    Metric names are matched whole: a host's ``profile.host-cpu.p50_ms`` never stands in for a phone's.
    """
    if not gates:
        reason = "no gate was given, so nothing was shown to be good enough; add gates to the recipe"
        return Verdict(False, (Row("(no gates)", None, None, "", False, reason),))
    rows = tuple(_row(gate, figures) for gate in gates)
    return Verdict(all(row.passed for row in rows), rows)


def _row(gate: Gate, figures: Mapping[str, Any]) -> Row:
    faults = [f for f in (_fault(gate.metric, figures), _fault_of_reference(gate, figures)) if f]
    value = _number(figures.get(gate.metric))
    limit = _limit(gate, figures)
    if faults or value is None or limit is None:
        return Row(gate.metric, value, limit, _relation(gate), False, "; ".join(faults), gate.why)
    passed = value >= limit if gate.min is not None else value <= limit
    return Row(gate.metric, value, limit, _relation(gate), passed, _comparison(gate, value, limit, passed), gate.why)


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
    if value < 0 and metric.rsplit(".", 1)[-1].startswith(DISTANCES):
        return f"{metric} is {value:g}, but a Fréchet distance cannot be negative; its covariances were not stable"
    if value < 0 and metric.endswith(AMOUNTS):
        return f"{metric} is {value:g}, but an amount cannot be negative; the measurement is wrong"
    return None


def _fault_of_reference(gate: Gate, figures: Mapping[str, Any]) -> str | None:
    if gate.of is None:
        return None
    if fault := _fault(gate.of, figures):
        return f"no limit without its reference: {fault}"
    if figures[gate.of] <= 0:
        return f"no limit without its reference: {gate.of} is {figures[gate.of]:g}, and a ratio needs a positive figure"
    return None


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


def _limit(gate: Gate, figures: Mapping[str, Any]) -> float | None:
    if gate.of is None:
        return gate.max if gate.max is not None else gate.min
    reference = _number(figures.get(gate.of))
    return None if reference is None or reference <= 0 else _number(gate.max_ratio * reference)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        return None
    return float(value)


def _relation(gate: Gate) -> str:
    if gate.of is not None:
        return f"at most {gate.max_ratio:g} x {gate.of}"
    return f"at most {gate.max:g}" if gate.max is not None else f"at least {gate.min:g}"


def _comparison(gate: Gate, value: float, limit: float, passed: bool) -> str:
    if passed:
        return f"{value:g} is {'at least' if gate.min is not None else 'at most'} {limit:g}"
    return f"{value:g} is {'below' if gate.min is not None else 'above'} {limit:g}"
