"""Arranged for training, a network computes what it did and learns what it did, and keeps less for it."""

import copy

import pytest
import tiny_svd
import torch
from diffusers.models.attention import FeedForward
from diffusers.models.resnet import ResnetBlock2D, TemporalResnetBlock
from torch import nn

from mobilevd.method import cross_attention, temporal_multiscale
from mobilevd.svd import lean


def given(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    random = lambda *shape: torch.randn(*shape, generator=g, dtype=dtype)  # noqa: E731
    ids = torch.tensor([[6.0, 127.0, 0.02]], dtype=dtype).repeat(2, 1)
    return random(2, 5, 8, 8, 16), random(2), random(2, 1, 16), ids


def learn(network: nn.Module, sample, *rest) -> tuple[torch.Tensor, list[torch.Tensor], int]:
    """Output, gradients (of the sample, then of the weights), and how many bytes were kept for them."""
    kept, sample = {}, sample.clone().requires_grad_()
    note = lambda t: kept.setdefault(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) and t  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        output = network(sample, *rest)
        output.square().mean().backward()
    return (
        output.detach(),
        [sample.grad, *(p.grad for p in network.parameters() if p.grad is not None)],
        sum(kept.values()),
    )


@pytest.mark.parametrize("edited", [False, True])
def test_an_arranged_network_has_the_same_output_and_gradients(edited, monkeypatch):
    monkeypatch.setattr(lean, "ROWS", 100)  # some blocks, the last one shorter
    whole = tiny_svd.unet().double().requires_grad_(True)
    if edited:
        cross_attention.apply(whole), temporal_multiscale.apply(whole)
    arranged = lean.arrange(copy.deepcopy(whole))
    changed = [m for m in arranged.modules() if isinstance(m, tuple(lean.FORMER))]
    assert {type(m) for m in changed} == set(lean.FORMER)
    assert arranged.state_dict().keys() == whole.state_dict().keys()
    assert str(lean.restore(copy.deepcopy(arranged))) == str(whole)
    (y, slopes, _), (y_too, slopes_too, _) = (learn(n, *given(torch.float64)) for n in (whole, arranged))
    torch.testing.assert_close(y_too, y, rtol=1e-9, atol=1e-9)
    assert len(slopes) == len(slopes_too) > 100
    for slope, slope_too in zip(slopes, slopes_too, strict=True):
        torch.testing.assert_close(slope_too, slope, rtol=1e-7, atol=1e-10)


def test_a_frozen_network_only_passes_gradients_on():
    frozen = lean.arrange(tiny_svd.unet())
    _, slopes, _ = learn(frozen, *given(torch.float32))
    assert len(slopes) == 1
    assert float(slopes[0].abs().sum()) > 0


def test_less_is_kept_for_the_gradients():
    whole = tiny_svd.unet().requires_grad_(True)
    arranged = lean.arrange(copy.deepcopy(whole))
    (*_, much), (*_, little) = (learn(network, *given(torch.float32)) for network in (whole, arranged))
    assert little < 0.45 * much


def test_the_same_bits_come_out_every_time():
    arranged = lean.arrange(tiny_svd.unet().requires_grad_(True))
    _, first, _ = learn(arranged, *given(torch.float32))
    first = [slope.clone() for slope in first]
    arranged.zero_grad()
    _, again, _ = learn(arranged, *given(torch.float32))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_under_autocast_it_computes_in_half_and_sums_gradients_of_weights_in_full(monkeypatch):
    monkeypatch.setattr(lean, "ROWS", 2)  # many sums
    g = torch.Generator().manual_seed(0)
    whole = FeedForward(16, activation_fn="geglu").double()
    x = torch.randn(1000, 16, generator=g, dtype=torch.float64)
    half = lean.arrange(nn.Sequential(copy.deepcopy(whole).float()))
    x_half = x.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y_half = half(x_half)
    y = whole(x.requires_grad_())
    y.square().mean().backward(), y_half.float().square().mean().backward()
    assert y_half.dtype == torch.bfloat16
    pairs = zip([x_half, *half.parameters()], [x, *whole.parameters()], strict=True)
    for got, want in ((one.grad, other.grad) for one, other in pairs):
        assert got.dtype == torch.float32
        assert float((got - want).norm() / want.norm()) < 0.02


RESBLOCKS = [(ResnetBlock2D, (6, 32, 8, 8), (6, 16)), (TemporalResnetBlock, (1, 32, 6, 8, 8), (1, 6, 16))]


@pytest.mark.parametrize(("kind", "of_x", "of_temb"), RESBLOCKS)
def test_a_resblock_under_autocast_is_as_it_was(kind, of_x, of_temb):
    g = torch.Generator().manual_seed(0)
    whole = kind(in_channels=32, out_channels=64, temb_channels=16)
    given = torch.randn(of_x, generator=g), torch.randn(of_temb, generator=g)
    found = []
    for block in (whole, lean.arrange(copy.deepcopy(whole))):
        x, temb = (t.clone().requires_grad_() for t in given)
        with torch.autocast("cpu", torch.bfloat16):
            y = block(x, temb)
        y.float().square().mean().backward()
        found.append([y.detach(), x.grad, temb.grad, *(p.grad for p in block.parameters())])
    assert type(block) in lean.FORMER
    for want, got in zip(*found, strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert float((got - want).norm() / want.norm()) < 0.01


def test_a_resblock_of_another_form_is_left_as_it_is():
    for changes in ({"up": True}, {"down": True}, {"dropout": 0.5}, {"output_scale_factor": 2.0}):
        block = ResnetBlock2D(in_channels=32, **changes)
        assert type(lean.arrange(nn.Sequential(block))[0]) is ResnetBlock2D
