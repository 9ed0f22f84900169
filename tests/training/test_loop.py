import os
import signal
from pathlib import Path

import pytest
import torch

from mobilevd.settings import Optim, Training
from mobilevd.training import loop, seeds
from mobilevd.training.checkpoints import Checkpoints, NotWrittenError
from mobilevd.training.engine import Engine
from mobilevd.training.learner import Learner
from mobilevd.training.preemption import PreemptedError

MAPS = Path("/proc/self/maps")


@pytest.fixture
def train(linear, tmp_path):
    """A small training with noise, a schedule and an average; a fresh learner every time, as after a kill."""

    def run(folder: str = "one", steps: int = 7, every: int = 2, term_at: int | None = None):
        settings = Optim(lr=0.05, warmup_steps=2, schedule="cosine")
        learner = Learner("network", linear(), settings, steps, Engine(Training()), ema_decay=0.9)

        def step(k):
            if k + 1 == term_at:
                os.kill(os.getpid(), signal.SIGTERM)
            x = torch.randn(2, 4, generator=seeds.generator(0, "step", k))
            loss = (learner.module(x) - x).square().mean()
            learner.gather(loss, k)
            return {"loss": float(loss.detach()), **learner.move(k, learner.ready(k))}

        def validate(k):
            with learner.ema.swapped():
                return {"val": float(learner.module(torch.ones(1, 4)).square().sum().detach())}

        checkpoints = Checkpoints(tmp_path / folder, "test")
        trained = loop.run(loop.Training(step, steps, [learner], "t", validate, every, checkpoints))
        return trained.curves, learner

    return run


def test_curves_hold_every_step_and_every_validation(train):
    curves, _ = train()
    assert [k for k, _ in curves["loss"]] == [1, 2, 3, 4, 5, 6, 7]
    assert [k for k, _ in curves["val"]] == [0, 2, 4, 6, 7]
    assert set(curves) == {"loss", "grad_norm", "lr", "val"}


def test_training_lowers_the_loss(train):
    curves, _ = train(steps=60)
    values = [v for _, v in curves["loss"]]
    assert sum(values[-5:]) < 0.5 * sum(values[:5])


@pytest.mark.parametrize("k", [1, 4, 7])
def test_a_killed_training_run_again_has_the_losses_of_one_that_was_not(train, killed_at, k):
    whole, learner = train("whole")
    with pytest.raises(killed_at(k)):
        train("killed")
    curves, resumed = train("killed")
    assert curves == whole
    assert torch.equal(resumed.module.weight, learner.module.weight)
    assert torch.equal(resumed.ema.average["weight"], learner.ema.average["weight"])


def test_a_resumed_training_does_not_repeat_finished_steps(train, killed_at, monkeypatch):
    with pytest.raises(killed_at(6)):
        train("killed")
    asked = []
    step = loop._Loop._step
    monkeypatch.setattr(loop._Loop, "_step", lambda self, k: asked.append(k) or step(self, k))
    train("killed")
    assert asked == [4, 5, 6]


@pytest.mark.skipif(not MAPS.exists(), reason="this system does not tell what a process has mapped")
def test_a_resumed_training_does_not_hold_the_checkpoint_that_it_came_from(train, killed_at, monkeypatch, tmp_path):
    """Mapped, a removed file keeps its room on the disk; SVD's are 24 GB."""
    with pytest.raises(killed_at(6)):
        train("killed")
    held, step = [], loop._Loop._step
    mapped = lambda: str(tmp_path) in MAPS.read_text()  # noqa: E731
    monkeypatch.setattr(loop._Loop, "_step", lambda self, k: held.append(mapped()) or step(self, k))
    train("killed")
    assert held == [False, False, False]


@pytest.mark.parametrize("step", [3, 4])
def test_sigterm_writes_one_checkpoint_where_one_is_due_or_not(train, monkeypatch, step):
    saved, save = [], Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda self, at, *rest: saved.append(at) or save(self, at, *rest))
    with pytest.raises(PreemptedError, match="its checkpoint is written"):
        train(term_at=step)
    assert saved == sorted({2, step})


def test_sigterm_on_a_full_disk_does_not_say_that_a_checkpoint_is_written(train, monkeypatch):
    def full(*_):
        raise NotWrittenError("No room")

    monkeypatch.setattr(Checkpoints, "save", full)
    with pytest.raises(PreemptedError, match="no checkpoint of this step is written"):
        train(term_at=3)
