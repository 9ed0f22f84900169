import shutil

import pytest
import torch
from torch import nn

from mobilevd.settings import Finetune, Training
from mobilevd.training import supervised
from mobilevd.training.checkpoints import Checkpoints

SETTINGS = Finetune(steps=5, optim={"lr": 0.01}, validate_every=2, ema_decay=0.5, batch_size=2)


@pytest.fixture
def train(linear, write_clips, tmp_path):
    """Learn to undo noise on the tokens with one linear layer."""

    def run(folder: str = "one", seed: int = 0, **how):
        network = nn.Sequential(nn.Linear(16, 4), linear())
        with torch.no_grad():
            network[0].weight.fill_(0.1)

        def loss(batch, generators):
            noise = torch.stack([torch.randn(16, generator=generator) for generator in generators])
            x = batch.tokens[:, 0] + noise
            return (network(x) - batch.tokens[:, 0, :4]).square().mean()

        def score(clips, step):
            return {"val_loss": float(network(clips.batch([0]).tokens[:, 0]).square().mean())}

        clips = (write_clips("train"), write_clips("validation", 2))
        checkpoints = Checkpoints(tmp_path / folder, "test")
        torch.nn.init.zeros_(network[0].bias)
        ids = (torch.zeros(1, 3),) * 2
        how = Training(**how)
        lesson = supervised.Lesson(network, loss, score, clips, ids, SETTINGS, seed, "t", how, checkpoints)
        return supervised.train(lesson).curves, network, score, clips

    return run


def test_curves_are_named_and_reproducible(train):
    first, *_ = train("one")
    again, *_ = train("two")
    other, *_ = train("three", seed=1)
    assert set(first) == {"loss", "grad_norm", "lr", "val_loss"}
    assert first == again
    assert first["loss"] != other["loss"]


def test_a_killed_training_continues_with_identical_losses(train, killed_at):
    whole, *_ = train("whole")
    with pytest.raises(killed_at(4)):
        train("killed")
    resumed, *_ = train("killed")
    assert resumed == whole


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_alike_and_goes_on_after_a_kill(train, killed_at, precision):
    whole, *_ = train("whole")
    half, *_ = train("half", precision=precision)
    assert half["loss"][0][1] == pytest.approx(whole["loss"][0][1], rel=0.01)
    assert half["loss"] != whole["loss"]
    assert half["val_loss"][-1] != half["val_loss"][0]
    with pytest.raises(killed_at(4)):
        train("killed", precision=precision)
    resumed, *_ = train("killed", precision=precision)
    assert resumed == half


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
def test_a_compiled_network_learns_alike_and_goes_on_uncompiled(train, killed_at):
    whole, *_ = train("whole")
    with pytest.raises(killed_at(4)):
        train("killed", compile=True)
    resumed, *_ = train("killed")
    for name, curve in whole.items():
        assert [value for _, value in resumed[name]] == pytest.approx([value for _, value in curve], rel=1e-5)


def test_the_network_is_left_with_the_weights_that_the_last_score_saw(train):
    from mobilevd.training.data import Clips

    curves, network, score, clips = train()
    assert network.training
    assert score(Clips(clips[1]), 5)["val_loss"] == pytest.approx(curves["val_loss"][-1][1], rel=1e-6)
