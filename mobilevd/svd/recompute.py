"""Gradient checkpointing of all transformer blocks: diffusers leaves out those over time, most of what SVD keeps.

**Changes** when activations are computed, not what they are: a block keeps its input, and runs again in the backward
pass. **Keeps** output and gradient, bit for bit (``tests/svd/test_recompute.py``).
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mobilevd.svd.upstream import TransformerSpatioTemporalModel

Again = Callable[..., Tensor]  # a block's function and what it is given → what it gives


def arrange(network: nn.Module, again: Again | None = None) -> nn.Module:
    """Let ``network`` keep its blocks' inputs alone, in place, and return it; ``again`` runs a block so."""
    network.enable_gradient_checkpointing(again)
    for module in network.modules():
        for block in module.temporal_transformer_blocks if isinstance(module, TransformerSpatioTemporalModel) else ():
            block.__class__ = _kind(type(block))
            block.again = again or _again
    return network


def restore(network: nn.Module) -> nn.Module:
    """Undo ``arrange``, in place: a network is saved as what its log of edits makes it."""
    for module in network.modules():
        if isinstance(module, _Again):
            module.__class__ = type(module).__bases__[1]
            del module.again
        if getattr(module, "gradient_checkpointing", False):
            module.gradient_checkpointing = False
    return network


class _Again:
    """A block over time that is run by its ``again`` wherever gradients are asked for."""

    def forward(self, hidden_states: Tensor, num_frames: int, encoder_hidden_states: Tensor) -> Tensor:
        run = super().forward
        if not torch.is_grad_enabled():
            return run(hidden_states, num_frames, encoder_hidden_states)
        return self.again(run, hidden_states, num_frames, encoder_hidden_states)


@cache
def _kind(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (_Again, kind), {})


def _again(run: Callable, *given) -> Tensor:
    return checkpoint(run, *given, use_reentrant=False)
