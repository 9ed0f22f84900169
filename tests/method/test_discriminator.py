import math

import pytest
import torch

from mobilevd.errors import RecipeError
from mobilevd.method.discriminator import Discriminator, SpatialHead, TemporalHead
from mobilevd.svd.edm import Condition


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def encoder(build):
    return build(torch.float32)


@pytest.fixture
def clip(inputs):
    sample, _, tokens, ids = inputs(dtype=torch.float32)
    x, image = sample[:, :, :4], sample[:, 0, 4:]
    noise = torch.randn(x.shape, generator=_generator(3))
    return x, noise, torch.tensor([0.3, 1.2]), Condition(image, tokens, ids)


def _logits(d, clip):
    x, noise, sigma, condition = clip
    return d(d.features(x, noise, sigma, condition), sigma, condition.tokens)


def _normal(rows, clips):
    """(B F) C H W → B F C H W, each of the 32 groups of channels with mean 0 and deviation 1 over its clip."""
    groups = rows.unflatten(0, (clips, -1)).unflatten(2, (32, -1))
    over = (1, 3, 4, 5)
    centred = groups - groups.mean(over, keepdim=True)
    return (centred / (centred.square().mean(over, keepdim=True) + 1e-5).sqrt()).flatten(2, 3)


def test_only_the_heads_are_parameters_and_only_they_are_saved(encoder):
    d = Discriminator(encoder, width=16)
    inside = {id(p) for p in encoder.parameters()}
    assert not inside & {id(p) for p in d.parameters()}
    assert all(name.startswith("heads.") for name in d.state_dict())
    assert all(not p.requires_grad for p in encoder.parameters())


def test_the_encoder_is_shared_in_memory_not_copied(encoder, clip):
    d = Discriminator(encoder, width=16)
    before = d.features(*clip[:3], clip[3])[0]
    with torch.no_grad():
        encoder.conv_in.weight.mul_(2.0)
    assert not torch.equal(before, d.features(*clip[:3], clip[3])[0])


def test_one_spatial_and_one_temporal_head_look_at_each_of_four_blocks(encoder, clip):
    d = Discriminator(encoder, width=16)
    assert [list(block) for block in d.heads] == [["spatial", "temporal"]] * 4
    logits = _logits(d, clip)
    H, W = clip[0].shape[-2:]
    positions = [(H // side) * (W // side) for side in (2, 4, 8, 8)]  # each block halves but the last
    assert [tuple(row.shape) for row in logits] == [(2, 4 * n) for n in positions for _ in ("spatial", "temporal")]
    assert [list(block) for block in Discriminator(encoder, ("temporal",), 16).heads] == [["temporal"]] * 4


def test_features_are_the_encoders_own_on_scaled_noisy_latents(encoder, clip):
    x, noise, sigma, condition = clip
    features = Discriminator(encoder, width=16).features(x, noise, sigma, condition)
    s = sigma[:, None, None, None, None]
    image = condition.image_latents[:, None].repeat(1, 4, 1, 1, 1)
    sample = torch.cat([(x + s * noise) / (s**2 + 1).sqrt(), image], 2)
    expected = encoder.encode(sample, sigma.log() / 4, condition.tokens, condition.ids)
    for got, want in zip(features, expected, strict=True):
        torch.testing.assert_close(got, _normal(want, len(x)))


def test_gradients_reach_the_clip_and_the_heads_but_not_the_encoder(encoder, clip):
    d = Discriminator(encoder, width=16)
    x = clip[0].clone().requires_grad_(True)
    sum(row.sum() for row in _logits(d, (x, *clip[1:]))).backward()
    assert float(x.grad.abs().sum()) > 0
    assert all(p.grad is not None for p in d.parameters())
    assert all(p.grad is None for p in encoder.parameters())


def test_a_spatial_head_never_mixes_frames_and_a_temporal_head_never_mixes_places():
    x, told = torch.randn(1, 5, 8, 4, 4, generator=_generator()), torch.randn(1, 5, 12, generator=_generator(1))
    for head, change in (
        (SpatialHead(8, 16, 12), (0, 2)),
        (TemporalHead(8, 16, 12), (0, slice(None), slice(None), 1, 2)),
    ):
        other = x.clone()
        other[change] += 1.0
        moved = (head(other, told) - head(x, told)).abs()[0] > 1e-6
        if isinstance(head, SpatialHead):
            assert moved[2].any()
            assert not moved[[0, 1, 3, 4]].any()
        else:
            assert moved[:, 1, 2].any()
            moved[:, 1, 2] = False
            assert not moved.any()


def test_logits_are_the_projection_of_the_trunk_on_the_affine_condition():
    head, x = SpatialHead(8, 16, 12), torch.randn(2, 3, 8, 4, 4, generator=_generator())
    told = torch.randn(2, 3, 12, generator=_generator(1))
    y = head.trunk(x.flatten(0, 1)).reshape(2, 3, 16, 4, 4)
    a = told @ head.affine.weight.T + head.affine.bias
    torch.testing.assert_close(head(x, told), torch.einsum("bfchw,bfc->bfhw", y, a) / math.sqrt(16))


def test_undivided_features_are_each_blocks_before_its_downsampler(encoder, clip):
    d, seen = Discriminator(encoder, width=16, undivided=True), []
    for block in encoder.down_blocks:
        last = block.attentions[-1] if hasattr(block, "attentions") else block.resnets[-1]
        last.register_forward_hook(lambda module, given, y: seen.append(y[0] if isinstance(y, tuple) else y))
    features = d.features(*clip)
    H, W = clip[0].shape[-2:]
    assert [f.shape[-2:] for f in features] == [(H // side, W // side) for side in (1, 2, 4, 8)]
    for got, want in zip(features, seen, strict=True):
        torch.testing.assert_close(got, _normal(want, len(clip[0])))


@pytest.mark.parametrize("what", ["token", "sigma"])
def test_logits_depend_on_the_condition(encoder, clip, what):
    d = Discriminator(encoder, width=16)
    x, noise, sigma, condition = clip
    features = d.features(x, noise, sigma, condition)
    tokens, other = condition.tokens, sigma
    if what == "token":
        tokens = tokens + 1
    else:
        other = sigma * 3
    assert not torch.allclose(d(features, sigma, condition.tokens)[0], d(features, other, tokens)[0])


def test_heads_start_alike_for_one_seed(encoder):
    first, again, other = (Discriminator(encoder, width=16, generator=_generator(s)).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_a_width_that_groups_do_not_divide_is_refused(encoder):
    with pytest.raises(RecipeError, match="head_channels"):
        Discriminator(encoder, width=20)
