"""SVD's temporal layers for one clip in tensors of rank four at most: an NPU adds, blends and convolves no rank five.

**Source** SVD (arXiv 2311.15127). **Changes** (3,1,1) convolutions over [1 C F H W] are (3,1) ones over [1 C F H·W];
the blend is folded into the last convolution; what a block is told comes once, not per frame; W_o W_v is one matrix.
**Keeps** the function, to rounding (``tests/device/test_one_clip.py``). **Axes** F C H W; tokens F S C.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilevd.device.temporal_attention import TemporalAttention
from mobilevd.errors import SurgeryError
from mobilevd.method.cross_attention import OneTokenBlock, OneTokenTemporalBlock, TokenAttention
from mobilevd.method.temporal_multiscale import DoubleFrames, HalveFrames
from mobilevd.method.temporal_pruning import SpatialTransformer
from mobilevd.svd.unet import (
    AlphaBlender,
    BasicTransformerBlock,
    SpatioTemporalResBlock,
    TemporalBasicTransformerBlock,
    TransformerSpatioTemporalModel,
)


@torch.no_grad()
def rewritten(network: nn.Module) -> nn.Module:
    """A copy of ``network`` for one clip; every weight that does not change is shared with it.

    Errors: SurgeryError for a temporal layer of an unknown form.
    """
    copied = copy.deepcopy(network, {id(p): p for p in network.parameters()})
    for name, module in list(copied.named_modules()):
        if (kind := _FORMS.get(type(module))) is not None:
            copied.set_submodule(name, kind(module))
    return copied


def over_time(conv: nn.Conv3d, scale: float = 1.0, shift: float = 0.0) -> nn.Conv2d:
    """``scale`` · conv + ``shift``, with conv's (k,1,1) kernel over [1 C F H W] as a (k,1) kernel over [1 C F H·W]."""
    if not (isinstance(conv, nn.Conv3d) and conv.kernel_size[1:] == (1, 1) and conv.bias is not None):
        allowed = "a convolution over frames alone, with a bias"
        raise SurgeryError("This temporal layer has no form for phones", got=repr(conv), allowed=allowed)
    padding = (conv.padding[0], 0)
    return like(conv, conv.weight.squeeze(-1) * scale, conv.bias * scale + shift, stride=1, padding=padding)


def like(conv: nn.Conv2d | nn.Conv3d, weight: Tensor, bias: Tensor, **changed: object) -> nn.Conv2d:
    """A convolution with these weights, its stride and padding those of ``conv`` unless ``changed``."""
    settings = {"stride": conv.stride, "padding": conv.padding} | changed
    made = nn.Conv2d(weight.shape[1], weight.shape[0], tuple(weight.shape[2:]), **settings, device="meta")
    made.weight, made.bias = (nn.Parameter(tensor.detach(), requires_grad=False) for tensor in (weight, bias))
    return made


class ResBlock(nn.Module):
    """A SpatioTemporalResBlock: y = x_s + (1 − α) h(x_s), for the blend α x_s + (1 − α)(x_s + h)."""

    def __init__(self, block: SpatioTemporalResBlock):
        super().__init__()
        self.spatial_res_block = block.spatial_res_block
        self.temporal_res_block = TemporalBranch(block.temporal_res_block, 1.0 - _alpha(block.time_mixer))

    def forward(self, hidden_states: Tensor, temb: Tensor | None = None, image_only_indicator: object = None) -> Tensor:
        x = self.spatial_res_block(hidden_states, temb)
        return x + self.temporal_res_block(x, temb)


class TemporalBranch(nn.Module):
    """h: norm, SiLU, convolution over frames, twice, with the time embedding between; its share is in conv2."""

    def __init__(self, branch: nn.Module, share: float):
        super().__init__()
        if branch.conv_shortcut is not None:
            raise SurgeryError("This temporal layer has no form for phones", got="conv_shortcut", allowed="none")
        self.norm1, self.norm2, self.time_emb_proj = branch.norm1, branch.norm2, branch.time_emb_proj
        self.conv1, self.conv2 = over_time(branch.conv1), over_time(branch.conv2, share)

    def forward(self, x: Tensor, temb: Tensor | None) -> Tensor:
        """x [F C H W], temb [1 D] → [F C H W]."""
        h = x.transpose(0, 1).flatten(2)[None]  # [1 C F H·W]
        h = self.conv1(F.silu(self.norm1(h)))
        if self.time_emb_proj is not None:
            h = h + self.time_emb_proj(F.silu(temb))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h[0].unflatten(2, x.shape[2:]).transpose(0, 1)


class Transformer(nn.Module):
    """A spatio-temporal transformer, or what pruning left of one: x = α s(x) + (1 − α) t(s(x) + position)."""

    def __init__(self, whole: nn.Module):
        super().__init__()
        self.norm, self.proj_in, self.proj_out = whole.norm, whole.proj_in, whole.proj_out
        self.transformer_blocks = nn.ModuleList(SpatialBlock(block) for block in whole.transformer_blocks)
        temporal = getattr(whole, "temporal_transformer_blocks", ())
        self.temporal_transformer_blocks = nn.ModuleList(TemporalBlock(block) for block in temporal)
        if temporal:
            self.time_proj, self.time_pos_embed = whole.time_proj, whole.time_pos_embed
            self.alpha = _alpha(whole.time_mixer)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        image_only_indicator: object = None,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """x [F C H W], the image token [1 1 E] → [F C H W]."""
        x = self.proj_in(self.norm(hidden_states).flatten(2).transpose(1, 2))
        for index, spatial in enumerate(self.transformer_blocks):
            x = spatial(x, encoder_hidden_states)
            if self.temporal_transformer_blocks:
                temporal = self.temporal_transformer_blocks[index](x + self._positions(x), encoder_hidden_states)
                x = self.alpha * x + (1.0 - self.alpha) * temporal
        x = self.proj_out(x).transpose(1, 2).unflatten(2, hidden_states.shape[2:])
        return (x + hidden_states,)

    def _positions(self, x: Tensor) -> Tensor:
        frames = torch.arange(x.shape[0], device=x.device)
        return self.time_pos_embed(self.time_proj(frames).to(x.dtype))[:, None]  # [F 1 C]


class SpatialBlock(nn.Module):
    """A spatial transformer block that is told the image token once for all frames."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.norm1, self.attn1, self.norm3, self.ff = block.norm1, block.attn1, block.norm3, block.ff
        self.attn2 = _cross(block, SPATIAL)

    def forward(self, x: Tensor, token: Tensor) -> Tensor:
        """x [F S C] → [F S C]."""
        x = self.attn1(self.norm1(x)) + x
        x = self.attn2(x, token) + x
        return self.ff(self.norm3(x)) + x


class TemporalBlock(nn.Module):
    """A temporal transformer block; frames stay the first axis, for only attention looks along them."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.norm_in, self.ff_in = block.norm_in, block.ff_in
        self.norm1, self.norm3, self.ff = block.norm1, block.norm3, block.ff
        self.attn1 = TemporalAttention(block.attn1)
        self.attn2 = _cross(block, TEMPORAL)

    def forward(self, x: Tensor, token: Tensor) -> Tensor:
        """x [F S C] → [F S C]."""
        x = self.ff_in(self.norm_in(x)) + x
        x = self.attn1(self.norm1(x)) + x
        x = self.attn2(x, token) + x
        return self.ff(self.norm3(x)) + x


class OneVector(nn.Module):
    """attn2 over one token: W_o W_v as one matrix, a vector for all positions."""

    def __init__(self, attn2: TokenAttention):
        super().__init__()
        v, out = attn2.to_v, attn2.to_out[0]
        self.linear = nn.Linear(v.in_features, out.out_features, device="meta")
        weight = (out.weight.double() @ v.weight.double()).to(v.weight)
        bias = out.bias if v.bias is None else out.bias + out.weight @ v.bias
        self.linear.weight, self.linear.bias = (nn.Parameter(t, requires_grad=False) for t in (weight, bias))

    def forward(self, x: Tensor, token: Tensor) -> Tensor:
        return self.linear(token)


class CrossAttention(nn.Module):
    """attn2 as SVD has it, with its queries; each row is given the token."""

    def __init__(self, norm: nn.Module, attention: nn.Module):
        super().__init__()
        self.norm, self.attention = norm, attention

    def forward(self, x: Tensor, token: Tensor) -> Tensor:
        return self.attention(self.norm(x), encoder_hidden_states=token.expand(x.shape[0], -1, -1))


class Halve(nn.Module):
    """``HalveFrames`` for one clip."""

    def __init__(self, halve: HalveFrames):
        super().__init__()
        self.down = halve.down

    def forward(self, x: Tensor, frames: int) -> tuple[Tensor, int]:
        """x [F C H W] → [F' C H W], F'."""
        x = torch.cat([x, x[-1:]]) if frames % 2 else x
        first, second = x[0::2], x[1::2]
        if self.down == "max":
            first = torch.maximum(first, second)
        elif self.down == "average":
            first = (first + second) * 0.5
        return first, first.shape[0]


class Double(nn.Module):
    """``DoubleFrames`` for one clip: y_f = x_⌊f/2⌋."""

    def __init__(self, _: DoubleFrames):
        super().__init__()

    def forward(self, x: Tensor, inner: int, outer: int) -> Tensor:
        """x [F' C H W] → [F C H W]."""
        return x.index_select(0, torch.arange(outer, device=x.device) // 2)


SPATIAL, TEMPORAL = (OneTokenBlock, BasicTransformerBlock), (OneTokenTemporalBlock, TemporalBasicTransformerBlock)
_FORMS = {
    SpatioTemporalResBlock: ResBlock,
    TransformerSpatioTemporalModel: Transformer,
    SpatialTransformer: Transformer,
    HalveFrames: Halve,
    DoubleFrames: Double,
}


def _alpha(blender: AlphaBlender) -> float:
    """The spatial half's share of a video's blend."""
    alpha = float(blender.get_alpha(torch.zeros(1, 1), 3))
    return 1.0 - alpha if blender.switch_spatial_to_temporal_mix else alpha


def _cross(block: nn.Module, kinds: tuple[type, type]) -> nn.Module:
    rewritten_kind, plain_kind = kinds
    if isinstance(block, rewritten_kind):
        return OneVector(block.attn2)
    if type(block) is plain_kind and block.attn2 is not None and getattr(block, "is_res", True):
        return CrossAttention(block.norm2, block.attn2)
    raise SurgeryError("This transformer block has no form for phones", got=type(block).__name__, allowed="SVD's own")
