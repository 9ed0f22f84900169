"""What is computed twice comes out the same, and little is kept for it."""

import copy

import pytest
import tiny_svd
import torch
from torch.autograd.graph import saved_tensors_hooks

from mobilevd.method import cross_attention, surgery
from mobilevd.svd import recompute


def network(edited: bool):
    torch.manual_seed(0)
    unet = tiny_svd.unet()
    if edited:
        cross_attention.apply(unet)
    return unet.train().requires_grad_(True)


def gradients(unet):
    """The output, every gradient, and the bytes that were kept for them."""
    g, kept = torch.Generator().manual_seed(1), []
    clip, token = torch.randn(1, 14, 8, 16, 16, generator=g), torch.randn(1, 1, 16, generator=g)
    with saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        out = unet(clip, torch.ones(1), token, torch.tensor([[6.0, 127.0, 0.02]]))
        out.square().mean().backward()
    return out.detach(), [p.grad for p in unet.parameters()], sum(kept)


@pytest.mark.parametrize("edited", [False, True])
def test_output_and_gradients_are_the_same_to_the_bit_and_a_fraction_is_kept(edited):
    (want, grads, whole), (got, others, lean) = (gradients(n) for n in (network(edited), arranged(edited)))
    assert torch.equal(got, want)
    assert all(torch.equal(a, b) for a, b in zip(others, grads, strict=True))
    assert lean < 0.5 * whole


def arranged(edited: bool):
    return recompute.arrange(network(edited))


def test_the_blocks_over_time_are_among_what_is_computed_twice():
    """diffusers' own option leaves them out."""
    without = network(True)
    without.enable_gradient_checkpointing()
    assert gradients(arranged(True))[2] < 0.7 * gradients(without)[2]


def test_without_gradients_nothing_is_computed_twice():
    unet, runs = network(True), []
    recompute.arrange(unet, lambda run, *given: runs.append(run) or run(*given))
    with torch.no_grad():
        gradients_off = unet(torch.randn(1, 14, 8, 16, 16), torch.ones(1), torch.randn(1, 1, 16), torch.zeros(1, 3))
    assert gradients_off.isfinite().all()
    assert not runs
    gradients(unet)
    assert runs


def test_a_restored_network_is_the_one_that_it_was():
    unet, plain = network(True), network(True)
    restored = recompute.restore(recompute.arrange(unet))
    assert surgery.outline(copy.deepcopy(restored)) == surgery.outline(plain)
    assert [type(m) for m in restored.modules()] == [type(m) for m in plain.modules()]
    assert not any(getattr(m, "gradient_checkpointing", False) for m in restored.modules())
