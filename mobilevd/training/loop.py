"""The one training loop: step, record, watch, validate, save; on where a killed one stopped, back where it was well.

**Keeps** a training that was killed and run again has the losses of one that was not, bit for bit
(``tests/training/test_loop.py``, ``test_kills.py``). Knows nothing of what is trained.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mobilevd import progress
from mobilevd.training.agreement import agreed
from mobilevd.training.checkpoints import Checkpoint, Checkpoints, NotWrittenError
from mobilevd.training.health import Alarm, Curves, UnhealthyError, Watch
from mobilevd.training.learner import Learner, NonFiniteError
from mobilevd.training.preemption import PreemptedError, Preemption

CURVES = "curves"
Tell = Callable[[Curves, int], object]
SPENT = ("steps", "validation", "checkpoints")


@dataclass
class Run:
    """What a training leaves beside the weights: curves, alarms, what it told of checkpoints, where its time went."""

    curves: Curves = field(default_factory=dict)
    alarms: list[Alarm] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rollbacks: int = 0
    steps_taken: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SPENT, 0.0))


@dataclass(frozen=True)
class Training:
    """What is trained: ``step(k)`` for k = 0 … steps-1 and ``validate(k)`` give scalars, ``learners`` move.

    ``validate`` runs before the first step (at 0), every ``validate_every`` steps and at the end; checkpoints are
    written each ``checkpoint_every`` (by default, with every validation). ``score``: the curve that is lower for better
    checkpoints; with ``leave_best`` the learners are left at the best one. ``tell``: given the curves and the number of
    roll-backs after every step.
    """

    step: Callable[[int], dict[str, float]]
    steps: int
    learners: list[Learner]
    label: str
    validate: Callable[[int], dict[str, float]] | None = None
    validate_every: int = 1
    checkpoints: Checkpoints | None = None
    checkpoint_every: int | None = None
    score: str | None = None
    leave_best: bool = False
    watch: Watch | None = None
    tell: Tell | None = None


def run(training: Training) -> Run:
    """Train, from the newest intact checkpoint if there is one.

    Errors: NonFiniteError or UnhealthyError when the recipe says to stop; PreemptedError after SIGTERM, once saved.
    """
    return _Loop(training).run()


class _Loop:
    def __init__(self, training: Training):
        self._t, self._engine = training, training.learners[0].engine
        self._run, self._done = Run(), 0
        self._saved: int | None = None  # the step of the checkpoint that holds all this

    def run(self) -> Run:
        """As the function of that name."""
        if not self._went_on() and self._t.validate:
            self._validate()
        with Preemption() as preemption:
            for k in self._shown(self._remaining()):
                self._step(k)
                if self._engine.any(preemption.asked):
                    self._leave()
        self._tell()  # a training that was resumed at its end had no step
        if self._t.leave_best:
            self._leave_best()
        return self._run

    def _went_on(self) -> bool:
        """Whether there was a checkpoint to go on from; nothing of its files stays mapped."""
        if (saved := self._found(Checkpoints.newest)) is None:
            return False
        self._load(saved)
        self._say(f"goes on after step {saved.step} of {self._t.steps}, from {saved.folder}")
        for damage in self._t.checkpoints.passed_over:
            self._say(f"passed over the checkpoint {damage}")
        return True

    def _found(self, find: Callable[[Checkpoints], Checkpoint | None]) -> Checkpoint | None:
        """The checkpoint that the first process finds, in all of them."""
        kept = self._t.checkpoints
        return None if kept is None else agreed(kept, self._engine, lambda: find(kept))

    def _leave_best(self) -> None:
        """Weights and curves of the best checkpoint; what was wrong after it stays told."""
        told = self._run.alarms, self._run.notes
        if (best := self._found(Checkpoints.best)) is not None:
            self._load(best)
            self._run.alarms, self._run.notes = told
            self._say(f"leaves the weights of step {best.step}, the best by {self._t.score} without an alarm")
        else:
            self._say(f"leaves the last weights: no checkpoint with {self._t.score} is without an alarm")

    def _shown(self, steps: Iterator[int]) -> Iterator[int]:
        """One bar, however many processes there are."""
        return progress.track(steps, self._t.steps - self._done, self._t.label) if self._engine.main else steps

    def _remaining(self) -> Iterator[int]:
        while self._done < self._t.steps:
            yield self._done

    def _step(self, k: int) -> None:
        began, error = time.perf_counter(), None
        try:
            self._record(k + 1, self._t.step(k))
        except NonFiniteError as found:
            if self._t.watch is None:
                raise
            error = found
            for learner in self._t.learners:
                learner.drop()
        self._done, self._run.steps_taken = k + 1, self._run.steps_taken + 1
        self._run.seconds["steps"] += time.perf_counter() - began
        if self._due(self._t.validate_every) and self._t.validate:
            self._validate()
        alarms = self._t.watch.look(self._run.curves, k + 1, error) if self._t.watch else []
        if not self._answered(alarms) and self._due(self._t.checkpoint_every or self._t.validate_every):
            self._save()
        self._tell()

    def _tell(self) -> None:
        if self._t.tell and self._engine.main:
            self._t.tell(self._run.curves, self._run.rollbacks)

    def _due(self, every: int) -> bool:
        return self._done % every == 0 or self._done == self._t.steps

    def _validate(self) -> None:
        began = time.perf_counter()
        self._record(self._done, self._t.validate(self._done))
        self._run.seconds["validation"] += time.perf_counter() - began

    def _record(self, step: int, values: dict[str, float]) -> None:
        for name, value in self._engine.mean(values).items():
            self._run.curves.setdefault(name, []).append((step, float(value)))

    def _answered(self, alarms: list[Alarm]) -> bool:
        """Do what the recipe says to each alarm; True when the training went back."""
        for alarm in alarms:
            self._run.alarms.append(alarm)
            self._say(alarm.reason, keep=False)
        answers = {alarm.answer for alarm in alarms}
        if "stop" in answers:
            self._stop(alarms, "the recipe says to stop")
        return "roll_back" in answers and self._rolled_back(alarms)

    def _rolled_back(self, alarms: list[Alarm]) -> bool:
        """Go back to the last healthy checkpoint, and on from there with lower rates."""
        run, settings = self._run, self._t.watch.settings
        saved = self._found(lambda kept: kept.newest(healthy=True))
        if saved is None or run.rollbacks == settings.rollbacks:
            self._stop(
                alarms, "no healthy checkpoint" if saved is None else f"rolled back {run.rollbacks} times already"
            )
        told, notes, rollbacks = run.alarms, run.notes, run.rollbacks + 1
        self._load(saved)
        if self._engine.main:
            self._t.checkpoints.drop_after(saved.step)
        self._saved = None
        run.alarms, run.notes, run.rollbacks = told, notes, rollbacks
        slowed = settings.slower**rollbacks
        for learner in self._t.learners:
            learner.slowed = slowed
        self._say(f"rolled back to step {saved.step}; learning rates are {slowed:g} of the recipe's")
        return True

    def _stop(self, alarms: list[Alarm], why: str) -> None:
        got = "; ".join(alarm.reason for alarm in alarms)
        raise UnhealthyError(
            f"The training {self._t.label} was stopped: {why}", got=got, where="training.health of the recipe"
        )

    def _leave(self) -> None:
        if self._engine.any(self._saved != self._done):
            self._save()
        state = "its checkpoint is written" if self._saved == self._done else "no checkpoint of this step is written"
        raise PreemptedError(
            f"The training {self._t.label} was asked to stop (SIGTERM) at step {self._done} of {self._t.steps}",
            allowed=f"{state}; the same run, retried or resumed, goes on from the newest",
        )

    def _save(self) -> None:
        if self._t.checkpoints is None:
            return
        began, run = time.perf_counter(), self._run
        tensors = {name: named for learner in self._t.learners for name, named in learner.tensors().items()}
        state = {
            "learners": {learner.name: learner.state() for learner in self._t.learners},
            "alarms": [list(alarm) for alarm in run.alarms],
            "notes": run.notes,
            "rollbacks": run.rollbacks,
        }
        scores = run.curves.get(self._t.score, [])
        measured = bool(scores) and scores[-1][0] == self._done and math.isfinite(scores[-1][1])
        score = scores[-1][1] if measured else None
        healthy = self._t.watch is None or self._t.watch.healthy
        try:
            if self._engine.main:
                tensors[CURVES] = _packed(run.curves)
                self._t.checkpoints.save(self._done, tensors, state, score, healthy)
            self._saved = self._done
        except NotWrittenError as error:
            self._say(str(error).replace("\n", "; "))
        run.seconds["checkpoints"] += time.perf_counter() - began

    def _load(self, saved: Checkpoint) -> None:
        for learner in self._t.learners:
            learner.load(saved.tensors, saved.state["learners"][learner.name])
        run = self._run
        run.curves, run.rollbacks = _unpacked(saved.tensors[CURVES]), saved.state["rollbacks"]
        run.alarms = [Alarm(*alarm) for alarm in saved.state["alarms"]]
        run.notes = list(saved.state["notes"])
        self._done = saved.step
        if self._t.watch:
            self._t.watch.look(run.curves, saved.step)  # what was wrong already then was told then

    def _say(self, note: str, keep: bool = True) -> None:
        if self._engine.main:
            progress.say(f"{self._t.label}: {note}")
        self._run.notes += [note] if keep else []


def _packed(curves: Curves) -> dict[str, Tensor]:
    """Curves as tensors, exactly: a long training's would be megabytes of text."""
    packed = {}
    for name, points in curves.items():
        steps, values = zip(*points, strict=True)
        packed |= {f"{name}.steps": torch.tensor(steps), f"{name}.values": torch.tensor(values, dtype=torch.float64)}
    return packed


def _unpacked(packed: dict[str, Tensor]) -> Curves:
    names = [key.removesuffix(".steps") for key in packed if key.endswith(".steps")]
    return {n: list(zip(packed[f"{n}.steps"].tolist(), packed[f"{n}.values"].tolist(), strict=True)) for n in names}
