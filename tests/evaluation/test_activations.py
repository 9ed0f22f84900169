"""What a pass keeps for its gradients is counted without one, and is what a real one holds."""

import pytest
import tiny_svd
import torch
from torch.autograd.graph import saved_tensors_hooks

from mobilevd.evaluation.activations import kept_bytes

LATENTS = (1, 14, 4, 16, 16)


def network():
    return tiny_svd.unet().train().requires_grad_(True)


def really_held() -> int:
    """Bytes that autograd holds after a pass on this machine, each storage once, without parameters."""
    unet, held = network(), {}

    def pack(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    batch, frames, _, height, width = LATENTS
    clip, told = torch.randn(batch, frames, 8, height, width), (torch.ones(1), torch.randn(1, 1, 16), torch.zeros(1, 3))
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = unet(clip, *told)
    assert kept.requires_grad
    return sum(held.values())


def test_the_count_is_what_a_real_pass_holds():
    assert kept_bytes(network().to("meta"), LATENTS) == pytest.approx(really_held(), rel=0.25)


def test_checkpointing_keeps_less_and_two_clips_twice_as_much():
    whole, lean = (kept_bytes(network().to("meta"), LATENTS, lean) for lean in (False, True))
    assert 0.1 * whole < lean < 0.7 * whole
    assert kept_bytes(network().to("meta"), (2, *LATENTS[1:])) == pytest.approx(2 * whole, rel=0.05)
