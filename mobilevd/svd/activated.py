"""Norm → SiLU → convolution, the half of a ResBlock, keeping its input alone for the gradient.

(1) y = W ∗ silu(norm(x)) + b; backward computes norm and activation once more. **Keeps** output and gradients, and
every bit from run to run (``tests/svd/test_lean.py``); no second derivative. **Axes** N C *S, S: height, width, time.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mobilevd.svd.inference import OverTime
from mobilevd.svd.upstream import ResnetBlock2D, TemporalResnetBlock

CONVOLUTIONS = (nn.Conv2d, OverTime)


def kind(block: nn.Module) -> type | None:
    """The lean class of a ResBlock that is as SVD has it; None for every other module."""
    lean = {ResnetBlock2D: Spatial, TemporalResnetBlock: Temporal}.get(type(block))
    return lean if lean and _is_plain(block) else None


def _is_plain(block: nn.Module) -> bool:
    sizes_stay = getattr(block, "upsample", None) is None and getattr(block, "downsample", None) is None
    told = getattr(block, "time_embedding_norm", "default") == "default" and not getattr(block, "skip_time_act", False)
    parts = zip((block.norm1, block.norm2), (block.conv1, block.conv2), strict=True)
    usual = all(type(norm) is nn.GroupNorm and type(conv) in CONVOLUTIONS for norm, conv in parts)
    same = usual and all(_is_same(conv) for conv in (block.conv1, block.conv2))
    alone = block.dropout.p == 0.0 and getattr(block, "output_scale_factor", 1.0) == 1.0
    return sizes_stay and told and same and alone and type(block.nonlinearity) is nn.SiLU


def _is_same(conv: nn.Module) -> bool:
    dense = conv.groups == 1 and set(conv.stride) == set(conv.dilation) == {1}
    return dense and conv.padding_mode == "zeros" and isinstance(conv.padding, tuple) and conv.bias is not None


class Spatial(ResnetBlock2D):
    def forward(self, input_tensor: Tensor, temb: Tensor | None, *_, **__) -> Tensor:
        return _forward(self, input_tensor, None if temb is None else _told(self, temb)[:, :, None, None])


class Temporal(TemporalResnetBlock):
    def forward(self, input_tensor: Tensor, temb: Tensor | None) -> Tensor:
        told = None if temb is None else _told(self, temb)[:, :, :, None, None].transpose(1, 2)
        return _forward(self, input_tensor, told)


def _told(block: nn.Module, temb: Tensor) -> Tensor:
    return block.time_emb_proj(F.silu(temb))


def _forward(block: nn.Module, x: Tensor, told: Tensor | None) -> Tensor:
    h = _half(x, block.norm1, block.conv1)
    h = _half(h if told is None else h + told, block.norm2, block.conv2)
    return (x if block.conv_shortcut is None else block.conv_shortcut(x)) + h


def _half(x: Tensor, norm: nn.GroupNorm, conv: nn.Module) -> Tensor:
    """As (1); a convolution over time sees height and width as one axis."""
    weight, padding = (conv.weight.squeeze(-1), (conv.padding[0], 0)) if x.dim() == 5 else (conv.weight, conv.padding)
    y = _Half.apply(x.flatten(3), norm.weight, norm.bias, norm.num_groups, norm.eps, weight, conv.bias, padding)
    return y if x.dim() == 4 else y.unflatten(3, x.shape[3:])


class _Half(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, gain: Tensor, shift: Tensor, groups: int, eps: float, W: Tensor, b: Tensor, padding):
        """y of (1), under autocast in its precision."""
        ctx.how = groups, eps, padding
        half = precision(x)
        W = W.to(half)
        ctx.save_for_backward(x, gain, shift, W)
        normed, *_ = _normed(x, gain, shift, groups, eps)
        return F.conv2d(F.silu(normed, inplace=True).to(half), W, b.to(half), padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_y: Tensor):
        """Gradients of x, gain, shift, W and b; None for what is frozen."""
        (x, gain, shift, W), (groups, eps, padding) = ctx.saved_tensors, ctx.how
        wanted = ctx.needs_input_grad
        normed, mean, rstd, flat = _normed(x, gain, shift, groups, eps)
        of_conv = ([len(W)], (1, 1), padding, (1, 1), False, (0, 0), 1, (True, wanted[5], wanted[6]))
        d_a, d_W, d_b = torch.ops.aten.convolution_backward(d_y, F.silu(normed).to(W.dtype), W, *of_conv)
        d_normed = torch.ops.aten.silu_backward(d_a.to(normed.dtype), normed)
        sizes = (x.shape[0], x.shape[1], x[0, 0].numel(), groups, (True, wanted[1], wanted[2]))
        d_x, d_gain, d_shift = torch.ops.aten.native_group_norm_backward(d_normed, flat, mean, rstd, gain, *sizes)
        return d_x, d_gain, d_shift, None, None, d_W, d_b, None


def _normed(x: Tensor, gain: Tensor, shift: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """norm(x), mean, 1/deviation, and x laid out as the kernel wants it."""
    flat = x.contiguous()
    return *torch.native_group_norm(flat, gain, shift, x.shape[0], x.shape[1], x[0, 0].numel(), groups, eps), flat


def precision(x: Tensor) -> torch.dtype:
    """What autocast would compute in where ``x`` is; its own where there is none."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
