"""The scripts that trained the embedded base: what they read and keep, and that they tell of the shipped weights."""

import json
import sys

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import AutoencoderKLTemporalDecoder
from safetensors.torch import load_file
from torch import nn

from mobilevd.evaluation import lpips
from mobilevd.packages import project_root
from mobilevd.svd.base import Base
from mobilevd.video import sample_data

POCKET = project_root() / "pocket"


@pytest.fixture(scope="module")
def scripts():
    """``corpus``, ``pretrain`` and ``resumable``, which find each other and the rest in their own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(POCKET))
        import corpus
        import pretrain
        import resumable

        yield corpus, pretrain, resumable
    for name in ("autoencoder", "corpus", "decoder", "image_encoder", "network", "photos", "pretrain", "resumable"):
        sys.modules.pop(name, None)


def test_the_shipped_weights_tell_the_plans_that_the_scripts_have(scripts):
    told = json.loads((POCKET / "base" / "training.json").read_text(encoding="utf-8"))
    plans = {part: vars(plan) for part, plan in scripts[1].PLANS.items()}
    assert told["plans"] == plans
    assert all(told["losses"][part]["step"] <= plan["steps"] for part, plan in plans.items())


def test_the_shipped_schedule_is_the_scripts_and_diffusers_reads_the_same(scripts):
    scheduler = EulerDiscreteScheduler.from_pretrained(POCKET / "base" / "scheduler")
    scheduler.set_timesteps(25)
    ours = Base(POCKET / "base").schedule
    assert ours.sigma_min == scripts[1].SIGMA_MIN
    torch.testing.assert_close(ours.sigmas(25), scheduler.sigmas, rtol=1e-5, atol=1e-9)


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


def test_the_bases_own_photographs_are_none_of_the_sample_set(scripts):
    mine, theirs = (
        {sample.sha256: sample.name for samples in files.values() for sample in samples}
        for files in (scripts[1].photos.FILES, sample_data.FILES)
    )
    assert len(mine) == len(set(mine.values())) == 16
    assert not mine.keys() & theirs.keys()
    assert not set(mine.values()) & set(theirs.values())


def test_a_clip_is_varied_into_whole_patches_of_other_sizes_and_colours(scripts):
    decoder = scripts[1].decoder
    clip = torch.stack([torch.full((2, 256, 512), level) for level in (-0.9, 0.0, 0.9)], dim=1)
    made = [decoder.varied(clip, torch.Generator().manual_seed(seed)) for seed in range(40)]
    assert all(side % decoder.PATCH == 0 for one in made for side in one.shape[-2:])
    assert all(one.shape[-2] * one.shape[-1] <= decoder.SIDE**2 for one in made)
    assert {one.shape[-2] for one in made} == {*range(128, 257, 16)}
    assert len({tuple(one[0, :, 0, 0].argsort().tolist()) for one in made}) == 6
    assert len({round(one.median().item(), 3) for one in made}) > 30  # the middle colour, by each one's gamma
    slope = torch.linspace(-1, 1, 512).expand(2, 3, 256, 512)
    made_of_it = [decoder.varied(slope, torch.Generator().manual_seed(seed)) for seed in range(40)]
    assert {bool(one[0, 0, 0, 0] < one[0, 0, 0, -1]) for one in made_of_it} == {True, False}
    assert len({round(one.min().item(), 3) for one in made_of_it}) > 20  # cut at another place each time
    torch.testing.assert_close(made[3], decoder.varied(clip, torch.Generator().manual_seed(3)), rtol=0, atol=0)


def test_the_decoder_learns_alone_and_its_heads_with_it(scripts, tmp_path):
    corpus, pretrain, resumable = scripts
    vae = AutoencoderKLTemporalDecoder.from_pretrained(POCKET / "base" / "vae", torch_dtype=torch.float32)
    before = {name: weight.clone() for name, weight in vae.state_dict().items()}
    pixels = torch.randint(256, (14, 3, 128, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    corpus._write(tmp_path / "clip.safetensors", pixels)
    plan = resumable.Plan(steps=1, lr=1e-3, warmup=1, ema=0.5)
    pretrain.decoder.train_decoder(vae, [tmp_path / "clip.safetensors"], plan, tmp_path / "state")
    moved = {name.split(".")[0] for name, weight in vae.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved == {"decoder"}
    assert vae.state_dict().keys() == before.keys()
    torch.manual_seed(plan.seed)
    start = pretrain.decoder.Taught(nn.Identity()).heads.state_dict()
    left = load_file(tmp_path / "state" / "checkpoint.safetensors")
    assert all(not torch.equal(left[f"net.heads.{name}"], weight) for name, weight in start.items() if weight.ndim > 1)


def test_the_decoder_is_judged_by_heads_that_it_does_not_move_and_that_do_not_move_it(scripts):
    decoder = scripts[1].decoder
    heads = decoder.Taught(nn.Identity()).heads
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    looks = lpips.load()
    made = (pixels * 0.5).requires_grad_()

    def gradients(real, looking):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decoder, "REAL", real)
            patch.setattr(decoder, "LOOKS", looking)
            return torch.autograd.grad(decoder._loss(heads, looks, made, pixels), [made, *heads.parameters()])

    (plain, *alone), (judged, *beside) = gradients(0.0, 1.0), gradients(1.0, 1.0)
    assert not torch.allclose(plain, judged)
    assert all(weight.abs().max() > 0 for weight in alone if weight.ndim > 1)
    for one, other in zip(alone, beside, strict=True):
        torch.testing.assert_close(one, other)
    exact, *_ = gradients(0.0, 0.0)
    flat = made.detach().requires_grad_()
    told = torch.nn.functional.l1_loss(flat, pixels) + decoder.edges(flat, pixels)
    told = told + torch.nn.functional.l1_loss(flat.diff(dim=0), pixels.diff(dim=0))
    torch.testing.assert_close(exact, torch.autograd.grad(told, flat)[0])


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
