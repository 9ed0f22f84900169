"""The scripts that trained the embedded base: what they read and keep, and that they tell of the shipped weights."""

import json
import sys

import pytest
import torch
from torch import nn

from mobilevd.packages import project_root

POCKET = project_root() / "pocket"


@pytest.fixture(scope="module")
def scripts():
    """``corpus``, ``pretrain`` and ``resumable``, which find each other in their own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(POCKET))
        import corpus
        import pretrain
        import resumable

        yield corpus, pretrain, resumable
    for name in ("autoencoder", "corpus", "image_encoder", "network", "pretrain", "resumable"):
        sys.modules.pop(name, None)


def test_the_shipped_weights_tell_the_plans_that_the_scripts_have(scripts):
    told = json.loads((POCKET / "base" / "training.json").read_text(encoding="utf-8"))
    plans = {part: vars(plan) for part, plan in scripts[1].PLANS.items()}
    assert told["plans"] == plans
    assert all(told["losses"][part]["step"] <= plan["steps"] for part, plan in plans.items())


def test_another_picture_of_the_same_name_makes_another_clip(scripts, tmp_path):
    corpus, *_ = scripts
    names = []
    for pixels in (b"one", b"two"):
        (tmp_path / "coins.png").write_bytes(pixels)
        names += [corpus.named(tmp_path / "coins.png", index) for index in (0, 1)]
    assert len(set(names)) == 4


def test_what_validation_is_made_of_is_not_read(scripts, tmp_path):
    corpus, *_ = scripts
    for name in ("camera", "chelsea", "coins", "rocket", "astronaut", "coffee"):
        (tmp_path / f"{name}.png").write_bytes(b"")
    kept = {path.stem for path in corpus.train_sources(tmp_path)}
    sides = corpus.split(["camera", "chelsea", "coins", "rocket", "astronaut", "coffee"], corpus.VALIDATION_SHARE)
    assert kept == {name for name, side in sides.items() if side == "train"}
    assert 0 < len(kept) < 6


def test_a_stopped_training_goes_on_to_the_weights_that_it_would_have_had(scripts, tmp_path):
    _, _, resumable = scripts
    start = nn.Linear(3, 1)

    def trained(folder, stop=None):
        torch.manual_seed(0)
        net = nn.Linear(3, 1)
        net.load_state_dict(start.state_dict())
        plan = resumable.Plan(steps=8, lr=0.1, kind="adamw", warmup=2, checkpoint_every=2)
        steps = iter(range(10))

        def loss_at(generator):
            if next(steps) == stop:
                raise KeyboardInterrupt
            return (net(torch.randn(4, 3, generator=generator)) - 1).square().mean()

        return resumable.train(net, loss_at, plan, folder)

    whole = trained(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts", stop=5)
    torch.testing.assert_close(trained(tmp_path / "parts").state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert not torch.equal(whole.weight, start.weight)
