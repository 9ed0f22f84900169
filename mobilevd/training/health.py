"""What a training is watched for: every sign of collapse is judged from the curves, so that a resumed one judges alike.

**Keeps** each rule fires on a student made to collapse that way, and none on one that learns
(``tests/training/test_health.py``).
"""

import math
import statistics
from typing import NamedTuple

from mobilevd.errors import MobileVDError
from mobilevd.settings import Health

Curves = dict[str, list[tuple[int, float]]]
MEMORY = 50
LEAST_SCALE = 1.0e-4  # of fp16's losses: from 65536, thirty overflows without a while between them
NOT_FINITE = "a step is not finite"
SIGNATURE, MOTION, COPIES, COLOURS, LOOPS = (
    "val_signature",
    "val_motion_ratio",
    "val_copy_rate",
    "val_entropy_ratio",
    "val_loop_score",
)


class UnhealthyError(MobileVDError):
    """A training that the recipe stops because it collapses."""


class Alarm(NamedTuple):
    """One sign of collapse: at which step, what, its value against its limit, and the recipe's answer."""

    step: int
    what: str
    got: float
    limit: str
    answer: str

    @property
    def reason(self) -> str:
        """The alarm in one line."""
        return f"step {self.step}: {self.what}: {self.got:.4g}, {self.limit}"


class Watch:
    """Judges the curves after every step; an alarm that goes on is told once."""

    def __init__(self, settings: Health):
        self.settings, self._on = settings, set()

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong at this moment."""
        return not self._on

    def look(self, curves: Curves, step: int, error: MobileVDError | None = None) -> list[Alarm]:
        """The alarms that begin at ``step``; ``error``: its loss or gradient was NaN or infinite."""
        s = self.settings
        found = [*_finite(curves, s), *_gradients(curves, s), *_discriminator(curves, s), *_samples(curves, s)]
        alarms = [Alarm(step, *alarm) for alarm in found if alarm[0] not in self._on]
        if error is not None and NOT_FINITE not in self._on:
            alarms.insert(0, Alarm(step, error.what, float(error.got), "must be finite", s.not_finite))
        self._on = {what for what, *_ in found} | (set() if error is None else {NOT_FINITE})
        return alarms


def _finite(curves: Curves, s: Health):
    """In fp16 a step that overflows is left out, its losses are recorded, and its scale is halved: now and then."""
    for name, value in ((name, points[-1][1]) for name, points in curves.items()):
        if name.startswith(("val_", "loss")) and not math.isfinite(value):
            yield f"{name} is not finite", value, "must be finite", s.not_finite
        if name.startswith("loss_scale") and value < LEAST_SCALE:
            yield f"{name} fell", value, f"at least {LEAST_SCALE:g}: gradients overflow at every scale", s.not_finite


def _gradients(curves: Curves, s: Health):
    for name in [name for name in curves if name.startswith("grad_norm")]:
        norms = [value for _, value in curves[name][-MEMORY - 1 :]]
        usual = statistics.median(norms[:-1]) if len(norms) > s.patience else math.inf
        if norms[-1] > s.exploded * usual > 0.0:
            yield f"{name} exploded", norms[-1], f"at most {s.exploded:g} x the median {usual:.3g}", s.gradients
        if len(norms) >= s.patience and max(norms[-s.patience :]) <= s.vanished:
            yield f"{name} vanished", norms[-1], f"above {s.vanished:g} within {s.patience} steps", s.gradients


def _discriminator(curves: Curves, s: Health):
    """Hinge loss near 0 on both sides: the discriminator wins, and its gradient teaches nothing any more."""
    losses = [value for _, value in curves.get("loss_hinge", [])[-s.patience :]]
    if len(losses) == s.patience and statistics.fmean(losses) < s.saturated:
        limit = f"at least {s.saturated:g} over {s.patience} steps"
        yield "discriminator saturated, hinge loss", statistics.fmean(losses), limit, s.discriminator


def _samples(curves: Curves, s: Health):
    """The newest validation after the start."""
    newest = {name: points[-1][1] for name, points in curves.items() if points[-1][0] > 0}
    if newest.get(MOTION, math.inf) < s.min_motion_ratio:
        yield "samples stand still", newest[MOTION], f"at least {s.min_motion_ratio:g} of real motion", s.samples
    if newest.get(COPIES, 0.0) > s.max_copy_rate:
        yield "samples copy their first frame", newest[COPIES], f"at most {s.max_copy_rate:g} of frames", s.samples
    if newest.get(COLOURS, math.inf) < s.min_entropy_ratio:
        yield "samples lose colours", newest[COLOURS], f"at least {s.min_entropy_ratio:g} of real entropy", s.samples
    if newest.get(LOOPS, 0.0) > s.max_loop_score:
        yield "samples loop", newest[LOOPS], f"at most {s.max_loop_score:g}", s.samples
    signatures = [value for _, value in curves.get(SIGNATURE, [])[-2:]]
    if len(signatures) == 2 and math.isclose(*signatures, rel_tol=1.0e-7, abs_tol=0.0):
        yield "two validations gave one output", abs(signatures[0] - signatures[1]), "a difference above 0", s.samples
