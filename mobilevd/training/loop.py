"""The one training loop: step, record, validate, save; and continue where a killed one stopped.

**Keeps** a training that was killed and run again has the losses of one that was not, bit for bit
(``tests/training/test_loop.py``). Knows nothing of what is trained.
"""

from collections.abc import Callable
from typing import Any

from mobilevd.progress import track
from mobilevd.training.checkpoints import Checkpoints
from mobilevd.training.learner import Learner

Curves = dict[str, list[tuple[int, float]]]


def run(
    step: Callable[[int], dict[str, float]],
    steps: int,
    learners: list[Learner],
    *,
    label: str,
    checkpoints: Checkpoints | None = None,
    validate: Callable[[], dict[str, float]] | None = None,
    validate_every: int = 1,
) -> Curves:
    """Call ``step(k)`` for k = 0 … steps-1 and return every scalar it gave as curves over 1 … steps.

    ``validate`` runs before the first step (at 0), every ``validate_every`` steps and at the end; a checkpoint is
    written at each of those but the first.
    """
    curves, done = _resume(learners, checkpoints)
    if validate and not done:
        _record(curves, 0, validate())
    for k in track(range(done, steps), steps - done, label):
        _record(curves, k + 1, step(k))
        if (k + 1) % validate_every == 0 or k + 1 == steps:
            if validate:
                _record(curves, k + 1, validate())
            if checkpoints and learners[0].writes:
                _save(checkpoints, k + 1, learners, curves)
    return curves


def _record(curves: Curves, step: int, values: dict[str, float]) -> None:
    for name, value in values.items():
        curves.setdefault(name, []).append((step, float(value)))


def _save(checkpoints: Checkpoints, step: int, learners: list[Learner], curves: Curves) -> None:
    state: dict[str, Any] = {learner.name: learner.state() for learner in learners}
    tensors = {name: named for learner in learners for name, named in learner.tensors().items()}
    checkpoints.save(step, tensors, {"curves": curves, "learners": state})


def _resume(learners: list[Learner], checkpoints: Checkpoints | None) -> tuple[Curves, int]:
    saved = checkpoints.newest() if checkpoints else None
    if saved is None:
        return {}, 0
    for learner in learners:
        learner.load(saved.tensors, saved.state["learners"][learner.name])
    curves = {name: [(int(k), float(v)) for k, v in points] for name, points in saved.state["curves"].items()}
    return curves, saved.step
