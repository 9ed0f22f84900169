"""A network arranged for training on a processor: the same values and gradients up to rounding, sooner, in less memory.

**Changes** feed-forward layers keep their input alone, and run by blocks of rows whose wide middles stay in the cache,
forward and again backward; ResBlocks as in ``activated``, convolutions over time as in ``inference``. **Keeps** output
and gradients, and every bit from run to run (``tests/svd/test_lean.py``); no second derivative.
**Axes** R rows, C channels, I inner.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mobilevd.svd import activated
from mobilevd.svd.activated import precision
from mobilevd.svd.inference import OverTime, over_time
from mobilevd.svd.upstream import GEGLU, FeedForward, ResnetBlock2D, TemporalResnetBlock

ROWS = 512


def arrange(network: nn.Module) -> nn.Module:
    """Arrange the network in place, and return it; parameters, their names and its mode stay."""
    for module in over_time(network).modules():
        if type(module) is FeedForward and _is_plain(module):
            module.__class__ = _Lean
        module.__class__ = activated.kind(module) or module.__class__
    return network


def restore(network: nn.Module) -> nn.Module:
    """Undo ``arrange``, in place: a network is saved as what its log of edits makes it."""
    for module in network.modules():
        module.__class__ = FORMER.get(type(module), type(module))
    return network


def _is_plain(layer: FeedForward) -> bool:
    gated, dropout, *rest = layer.net
    linears = [getattr(gated, "proj", None), *rest]
    plain = len(linears) == 2 and all(type(linear) is nn.Linear and linear.bias is not None for linear in linears)
    return type(gated) is GEGLU and dropout.p == 0.0 and plain


class _Lean(FeedForward):
    def forward(self, hidden_states: Float[Tensor, "*N C"], *_, **__) -> Float[Tensor, "*N D"]:
        wide, narrow = self.net[0].proj, self.net[2]
        return _Gated.apply(hidden_states, wide.weight, wide.bias, narrow.weight, narrow.bias)


class _Gated(torch.autograd.Function):
    """(1) y = W2 (h ⊙ gelu(g)) + b2 with (h, g) = W1 x + b1; backward computes h and g once more.

    Under autocast in its precision; gradients of weights are summed over blocks in the weights' own.
    """

    @staticmethod
    def forward(ctx, x: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor) -> Tensor:
        """y, as x, over the rows of x; what backward needs is kept in ``ctx``."""
        ctx.given = x.dtype, W1.dtype
        x, W1, b1, W2, b2 = (t.to(precision(x)) for t in (x, W1, b1, W2, b2))
        ctx.save_for_backward(x, W1, b1, W2)
        rows = x.reshape(-1, x.shape[-1])
        y = x.new_empty(len(rows), len(W2))
        for part, out in zip(rows.split(ROWS), y.split(ROWS), strict=True):
            h, g = torch.addmm(b1, part, W1.T).chunk(2, dim=1)
            torch.addmm(b2, h * nn.functional.gelu(g), W2.T, out=out)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_y: Tensor):
        """Gradients of x, W1, b1, W2 and b2; None for weights that are frozen."""
        (x, W1, b1, W2), (x_dtype, dtype) = ctx.saved_tensors, ctx.given
        rows, d_rows = x.reshape(-1, x.shape[-1]), d_y.reshape(-1, d_y.shape[-1])
        d_x, moves = torch.empty_like(rows), ctx.needs_input_grad[1]
        weights = (W1, b1, W2, d_rows[0])
        d_W1, d_b1, d_W2, d_b2 = (torch.zeros_like(t, dtype=dtype) for t in weights) if moves else (None,) * 4
        for part, d_part, out in zip(rows.split(ROWS), d_rows.split(ROWS), d_x.split(ROWS), strict=True):
            h, g = torch.addmm(b1, part, W1.T).chunk(2, dim=1)
            active, d_wide = nn.functional.gelu(g), d_part @ W2
            d_both = torch.cat([d_wide * active, torch.ops.aten.gelu_backward(d_wide * h, g)], dim=1)
            torch.mm(d_both, W1, out=out)
            if moves:
                d_W2 += d_part.T @ (h * active)
                d_W1 += d_both.T @ part
                d_b1 += d_both.sum(0)
                d_b2 += d_part.sum(0)
        return d_x.view_as(x).to(x_dtype), d_W1, d_b1, d_W2, d_b2


FORMER = {
    _Lean: FeedForward,
    OverTime: nn.Conv3d,
    activated.Spatial: ResnetBlock2D,
    activated.Temporal: TemporalResnetBlock,
}
