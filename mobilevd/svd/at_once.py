"""A loss whose gradients are taken in the moment it is computed, so that nothing of its computation outlives it.

**Keeps** value and gradients (``tests/svd/test_at_once.py``); no second derivative through it.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Scalar = Float[Tensor, ""]


def at_once(compute: Callable[[], tuple[Scalar, ...]], inputs: Sequence[Tensor]) -> tuple[Scalar, ...]:
    """What ``compute`` returns: a loss with its gradients for ``inputs``, all else that it used being constant, and
    values beside it, which have none."""
    return _AtOnce.apply(compute, *inputs) if torch.is_grad_enabled() else compute()


class _AtOnce(torch.autograd.Function):
    @staticmethod
    def forward(ctx, compute: Callable[[], tuple[Scalar, ...]], *inputs: Tensor) -> tuple[Scalar, ...]:
        """The loss and the values; the loss's gradients are kept, and nothing else."""
        asking = [t.requires_grad for t in inputs]
        with torch.enable_grad():
            loss, *values = compute()
            with torch.autocast(loss.device.type, enabled=False):  # as outside of the forward pass
                found = iter(torch.autograd.grad(loss, [t for t in inputs if t.requires_grad], allow_unused=True))
        ctx.save_for_backward(*(next(found) if asks else None for asks in asking))
        values = [value.detach() for value in values]
        ctx.mark_non_differentiable(*values)
        return loss.detach(), *values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope: Scalar, *_: Tensor) -> tuple:
        """The gradients that were kept, times ``slope``."""
        return None, *(None if gradient is None else slope * gradient for gradient in ctx.saved_tensors)
