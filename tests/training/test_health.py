"""Each alarm on a student made to collapse that way: a few free clips, trained into it by the real loop."""

import json

import pytest
import torch
from torch import nn

from mobilevd.settings import Health, Optim, Training
from mobilevd.stages import samples
from mobilevd.training import health, loop
from mobilevd.training.checkpoints import Checkpoints
from mobilevd.training.engine import Engine
from mobilevd.training.health import UnhealthyError, Watch
from mobilevd.training.learner import Learner

QUIET = {"not_finite": "warn", "patience": 4, "exploded": 50.0, "min_motion_ratio": 0.3, "max_loop_score": 0.5}
ROTATE = samples.Preview(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 1.0)


@pytest.fixture
def real():
    """Two lively clips of eight frames, in colours."""
    g = torch.Generator().manual_seed(0)
    drift = torch.linspace(0, 0.4, 8)[None, :, None, None, None]
    return (torch.rand(2, 1, 3, 6, 6, generator=g) * 0.6 + drift * torch.rand(2, 1, 3, 6, 6, generator=g)).clamp(0, 1)


class Student(nn.Module):
    """The clips themselves are what is trained."""

    def __init__(self, start):
        super().__init__()
        self.clips = nn.Parameter(start.clone())


@pytest.fixture
def train(real, tmp_path):
    """``train(target)``: 24 steps from the real clips towards ``target(real)``; or with a loss of one's own."""

    def run(target=lambda real: real, loss=None, lr=0.1, folder=None, leave=None, **changes):
        student, settings = Student(real), Health(**(QUIET | changes))
        optim = Optim(lr=lr, betas=(0.0, 0.9), max_grad_norm=1e9, schedule="cosine" if loss is None else "constant")
        learner = Learner("student", student, optim, 24, Engine(Training()), ema_decay=0.5)
        shown = samples.Samples(ROTATE, real, tmp_path / "pictures", "t")
        wanted = target(real)

        def step(k):
            value = (student.clips - wanted).square().mean() if loss is None else loss(student, k)
            learner.gather(value, k)
            return {"loss": float(value.detach()), **learner.move(k, learner.ready(k))}

        def validate(k):
            with learner.ema.swapped():
                return shown(k, student.clips.detach())

        checkpoints = Checkpoints(tmp_path / folder, "t") if folder else None
        left = {"score": leave, "leave_best": leave is not None, "watch": Watch(settings)}
        return loop.run(loop.Training(step, 24, [learner], "t", validate, 8, checkpoints, **left)), learner

    return run


def _lively(student, k):
    """A loss that leaves the clips lively and yet never lets them rest."""
    noise = torch.randn(student.clips.shape, generator=torch.Generator().manual_seed(k))
    return (student.clips * noise).mean()


def _alarms(trained):
    return {alarm.what for alarm in trained[0].alarms}


COLLAPSES = {
    "samples stand still": lambda real: (
        real[:, :1].expand_as(real) + 0.002 * torch.arange(8)[None, :, None, None, None]
    ),
    "samples copy their first frame": lambda real: real[:, :1].expand_as(real),
    "samples lose colours": lambda real: real.mean(dim=(0, 1, 2, 3, 4)).expand_as(real),
    "samples loop": lambda real: real[:, [0, 4, 0, 4, 0, 4, 0, 4]],
}


@pytest.mark.parametrize("sign", COLLAPSES)
def test_a_student_trained_to_collapse_is_noticed_by_its_own_sign(train, sign):
    assert sign in _alarms(train(COLLAPSES[sign]))


def test_a_student_that_learns_raises_no_alarm(train):
    assert _alarms(train(loss=_lively, lr=1e-3)) == set()


def test_a_student_that_no_longer_moves_gives_one_output_twice_and_no_gradient(train):
    found = _alarms(train(loss=lambda student, k: (student.clips * 0.0).sum()))
    assert {"two validations gave one output", "grad_norm vanished"} <= found


def test_exploding_gradients_are_told_against_their_own_median(train):
    found = _alarms(train(loss=lambda student, k: _lively(student, k) * (1e4 if k == 15 else 1.0), lr=1e-3))
    assert found == {"grad_norm exploded"}


def test_a_discriminator_that_wins_outright_is_told():
    watch, curves = Watch(Health(**QUIET)), {}
    score = nn.Parameter(torch.zeros(2))  # the logits of a real and of a fake clip, told apart at once
    optimizer, alarms = torch.optim.SGD([score], lr=0.5), []
    for k in range(1, 12):
        loss = (1 + score[0]).relu() + (1 - score[1]).relu()
        curves.setdefault("loss_hinge", []).append((k, float(loss.detach())))
        alarms += watch.look(curves, k)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [(alarm.what, alarm.step) for alarm in alarms] == [("discriminator saturated, hinge loss", 6)]


def _nan_at(step):
    return lambda student, k: _lively(student, k) * (float("nan") if k == step else 1.0)


def test_not_a_number_skips_the_step_stops_or_rolls_back_as_the_recipe_says(train):
    warned, learner = train(loss=_nan_at(9), lr=1e-3)
    assert [alarm.reason for alarm in warned.alarms] == [
        "step 10: The loss of the student is not finite at step 10 of 24: nan, must be finite"
    ]
    assert [k for k, _ in warned.curves["loss"]] == [k for k in range(1, 25) if k != 10]
    assert learner.module.clips.isfinite().all()
    with pytest.raises(UnhealthyError, match="the recipe says to stop"):
        train(loss=_nan_at(9), lr=1e-3, not_finite="stop")


def test_fp16_that_overflows_at_every_scale_and_a_loss_that_is_recorded_as_nan_are_told():
    """In fp16, and among several processes, such a step raises nothing: it is left out."""
    watch, curves = Watch(Health(**QUIET)), {"loss_scale_g": [(k, 2.0 ** (16 - k)) for k in range(30)]}
    assert watch.look(curves, 29) == []
    curves["loss_scale_g"].append((30, 2.0**-14))
    curves["loss_g"] = [(30, float("nan"))]
    assert {alarm.what for alarm in watch.look(curves, 30)} == {"loss_scale_g fell", "loss_g is not finite"}


def test_the_best_of_a_training_that_ends_ill_is_left_and_what_was_wrong_stays_told(train):
    """The lowest scores lie in the illness."""
    ill = COLLAPSES["samples copy their first frame"]
    trained, _ = train(ill, folder="c", leave="val_motion_ratio", min_motion_ratio=0.1)
    assert trained.curves["val_motion_ratio"][-1][0] == 8
    assert "samples copy their first frame" in {alarm.what for alarm in trained.alarms}
    assert trained.notes == ["leaves the weights of step 8, the best by val_motion_ratio without an alarm"]


def test_rolling_back_goes_on_from_the_last_healthy_checkpoint_more_slowly_and_says_so(train):
    seen = []

    def once(student, k):
        seen.append(k)
        return _nan_at(9 if seen.count(9) == 1 else -1)(student, k)

    trained, _ = train(loss=once, lr=1e-3, folder="c", not_finite="roll_back")
    assert seen[9:12] == [9, 8, 9]
    assert [k for k, _ in trained.curves["loss"]] == list(range(1, 25))
    assert trained.curves["lr"][7][1] == 1e-3
    assert trained.curves["lr"][8][1] == 5e-4
    assert trained.notes == ["rolled back to step 8; learning rates are 0.5 of the recipe's"]
    assert [alarm.step for alarm in trained.alarms] == [10]


def test_a_kill_after_a_roll_back_leaves_nothing_newer_to_go_on_from(train, tmp_path):
    """A warning at 16 makes that checkpoint unhealthy; NaN at 18 goes back to 8; the kill falls in step 12."""
    seen = []

    def loss(student, k):
        seen.append(k)
        if seen.count(11) == 2:
            raise KeyboardInterrupt
        return _nan_at(17)(student, k) * (1e4 if k == 15 else 1.0)

    with pytest.raises(KeyboardInterrupt):
        train(loss=loss, lr=1e-3, folder="c", not_finite="roll_back")
    assert seen[15:] == [15, 16, 17, 8, 9, 10, 11]
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["step-00000008"]


def test_a_collapse_that_comes_back_is_rolled_back_a_few_times_and_then_stopped(train):
    with pytest.raises(UnhealthyError, match="rolled back 2 times already") as error:
        train(loss=_nan_at(9), lr=1e-3, folder="c", not_finite="roll_back", rollbacks=2)
    assert "step 10: The loss of the student is not finite" in str(error.value)


def test_without_a_healthy_checkpoint_there_is_no_way_back(train):
    with pytest.raises(UnhealthyError, match="no healthy checkpoint"):
        train(loss=_nan_at(1), not_finite="roll_back", folder="c")


def test_checkpoints_saved_during_an_alarm_are_no_way_back(train, tmp_path):
    train(COLLAPSES["samples lose colours"], folder="c")
    checkpoints = Checkpoints(tmp_path / "c", "t")
    assert checkpoints.newest().step == 24
    assert checkpoints.newest(healthy=True) is None


def test_steps_that_stay_not_a_number_are_told_once_and_leave_no_healthy_checkpoint(train, tmp_path):
    lost = lambda student, k: _nan_at(k if 12 <= k < 20 else -1)(student, k)  # noqa: E731
    trained, _ = train(loss=lost, lr=1e-3, folder="c")
    assert [alarm.step for alarm in trained.alarms] == [13]
    saved = {int(path.name[-2:]): json.loads((path / "state.json").read_text()) for path in (tmp_path / "c").iterdir()}
    assert {step: about["healthy"] for step, about in saved.items()} == {16: False, 24: True}


def test_an_alarm_that_goes_on_is_told_once(train):
    trained, _ = train(COLLAPSES["samples copy their first frame"])
    assert len({alarm.what for alarm in trained.alarms}) == len(trained.alarms)


def test_signs_have_the_names_of_the_figures(real):
    found = samples.figures(ROTATE(real), ROTATE(real))
    assert set(found) == {health.MOTION, health.COPIES, health.COLOURS, health.LOOPS}
    assert (found[health.MOTION], found[health.COLOURS]) == (1.0, 1.0)
