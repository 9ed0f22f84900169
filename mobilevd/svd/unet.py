"""SVD's UNet with a forward of our own: embed → down → mid → up → out, and two points where frames and size may change.

**Source** SVD (arXiv 2311.15127), diffusers. **Changes** a plain tensor comes out; ``frame_…`` and ``space_…`` points.
**Keeps** bits, gradients and keys of diffusers' own network (``tests/svd/test_unet.py``). **Axes** B F C H W.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from mobilevd.errors import SurgeryError
from mobilevd.svd.start import Start
from mobilevd.svd.upstream import (
    AlphaBlender,
    Attention,
    BasicTransformerBlock,
    SpatioTemporalResBlock,
    TemporalBasicTransformerBlock,
    TransformerSpatioTemporalModel,
    UNetSpatioTemporalConditionModel,
)

__all__ = [
    "AlphaBlender",
    "Attention",
    "BasicTransformerBlock",
    "SpatioTemporalResBlock",
    "TemporalBasicTransformerBlock",
    "TransformerSpatioTemporalModel",
    "VideoUNet",
    "config_of",
    "only_svd",
    "temporal_blocks",
]

FrameDown = Callable[[Tensor, int], tuple[Tensor, int]]  # x [B·F C H W], F -> x [B·F' C H W], F'
FrameUp = Callable[[Tensor, int, int], Tensor]  # x [B·F' C H W], F', F -> x [B·F C H W]
SpaceDown = Callable[[Tensor], Tensor]  # x [N C H W] -> x [N C H' W']
SpaceUp = Callable[[Tensor, tuple[int, int]], Tensor]  # x [N C H' W'], (H, W) -> x [N C H W]


@dataclass(frozen=True)
class Conditioning:
    """What every block is told: one row per clip, spread over as many frames as the block sees."""

    emb: Float[Tensor, "B D"]
    context: Float[Tensor, "B T E"]

    def over(self, frames: int) -> dict[str, Tensor]:
        """Arguments of a block that sees ``frames`` frames: rows repeated per frame, and an all-video indicator."""
        rows = self.emb.shape[0] * frames
        return {
            "temb": self.emb.repeat_interleave(frames, dim=0, output_size=rows),
            "encoder_hidden_states": self.context.repeat_interleave(frames, dim=0, output_size=rows),
            "image_only_indicator": self.emb.new_zeros(self.emb.shape[0], frames),
        }


class OneClipConditioning(Conditioning):
    """The same for one clip whose blocks take their one row as it is, whatever the number of frames."""

    def over(self, frames: int) -> dict[str, Tensor]:
        return {
            "temb": self.emb,
            "encoder_hidden_states": self.context,
            "image_only_indicator": self.emb.new_zeros(1, frames),
        }


@dataclass(frozen=True)
class Encoded:
    """The down path's result: ``x``, the skips, each block's output and what it was before its downsampler (where it
    has one); what blocks are told outside and inside."""

    x: Tensor
    skips: list[Tensor]
    features: list[Tensor]
    undivided: list[Tensor]
    outer: dict[str, Tensor]
    inner: dict[str, Tensor]


class VideoUNet(UNetSpatioTemporalConditionModel):
    """diffusers' ``UNetSpatioTemporalConditionModel`` whose frames, height and width may shrink after down block 0.

    ``frame_down(x, F) -> (x, F')`` and ``space_down(x) -> x`` act on down block 0's output and thereby on its last skip
    (they are one tensor); ``frame_up(x, F', F) -> x`` and ``space_up(x, (H, W)) -> x`` undo them before the last up
    block. ``start`` is what its one evaluation starts from, where that is not noise alone (``svd/start.py``). Each is
    None, or free of parameters.
    """

    @functools.wraps(UNetSpatioTemporalConditionModel.__init__)
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.frame_down: FrameDown | None = None
        self.frame_up: FrameUp | None = None
        self.space_down: SpaceDown | None = None
        self.space_up: SpaceUp | None = None
        self.start: Start | None = None

    def forward(
        self,
        sample: Float[Tensor, "B F C_in H W"],
        timestep: Float[Tensor, "B"],
        encoder_hidden_states: Float[Tensor, "B T E"],
        added_time_ids: Float[Tensor, "B K"],
    ) -> Float[Tensor, "B F C_out H W"]:
        """One evaluation: ``timestep`` is c_noise, the context one image token (T = 1), ids fps−1, bucket, σ_c."""
        frames = sample.shape[1]
        conditioning = self._embed(sample, timestep, encoder_hidden_states, added_time_ids)
        return self._evaluate(sample.flatten(0, 1), frames, conditioning).unflatten(0, (-1, frames))

    def one_clip(
        self,
        sample: Float[Tensor, "F C_in H W"],
        timestep: Float[Tensor, "1"],
        encoder_hidden_states: Float[Tensor, "1 T E"],
        added_time_ids: Float[Tensor, "1 K"],
    ) -> Float[Tensor, "F C_out H W"]:
        """``forward`` without the clips' axis, for blocks that are told once (``device/rank4.py``)."""
        told = self._embed(encoder_hidden_states, timestep, encoder_hidden_states, added_time_ids)
        return self._evaluate(sample, sample.shape[0], OneClipConditioning(told.emb, told.context))

    def encode(
        self,
        sample: Float[Tensor, "B F C_in H W"],
        timestep: Float[Tensor, "B"],
        encoder_hidden_states: Float[Tensor, "B T E"],
        added_time_ids: Float[Tensor, "B K"],
        undivided: bool = False,
    ) -> list[Tensor]:
        """Features [B·F' C H W] after each down block, as small as ``frame_down`` and ``space_down`` make them.

        ``undivided``: as they are before the block's downsampler, twice as high and wide.
        """
        conditioning = self._embed(sample, timestep, encoder_hidden_states, added_time_ids)
        encoded = self._down(self.conv_in(sample.flatten(0, 1)), sample.shape[1], conditioning)
        return encoded.undivided if undivided else encoded.features

    def _evaluate(self, x: Tensor, frames: int, conditioning: Conditioning) -> Tensor:
        force_sizes = self._needs_sizes(x)
        encoded = self._down(self.conv_in(x), frames, conditioning)
        x = self.mid_block(encoded.x, **encoded.inner)
        x = self._up(x, encoded, force_sizes)
        return self.conv_out(self.conv_act(self.conv_norm_out(x)))

    def _embed(self, sample: Tensor, timestep: Tensor, context: Tensor, added_time_ids: Tensor) -> Conditioning:
        batch = sample.shape[0]
        noise_emb = self.time_embedding(self.time_proj(timestep.expand(batch)).to(sample.dtype))
        ids = self.add_time_proj(added_time_ids.flatten()).reshape(batch, -1).to(noise_emb.dtype)
        return Conditioning(noise_emb + self.add_embedding(ids), context)

    def _down(self, x: Tensor, frames: int, conditioning: Conditioning) -> Encoded:
        outer = told = conditioning.over(frames)
        skips, features, undivided = [x], [], []
        for index, block in enumerate(self.down_blocks):
            x, block_skips = block(x, **_accepted(block, told))
            undivided.append(block_skips[len(block.resnets) - 1])
            if index == 0:
                x, inner_frames = self._inward(x, frames)
                told = outer if inner_frames == frames else conditioning.over(inner_frames)
                block_skips = (*block_skips[:-1], x)
            skips += block_skips
            features.append(x)
        return Encoded(x, skips, features, undivided, outer, told)

    def _inward(self, x: Tensor, frames: int) -> tuple[Tensor, int]:
        x, frames = (x, frames) if self.frame_down is None else self.frame_down(x, frames)
        return (x if self.space_down is None else self.space_down(x)), frames

    def _up(self, x: Tensor, encoded: Encoded, force_sizes: bool) -> Tensor:
        skips, told = list(encoded.skips), encoded.inner
        for block in self.up_blocks:
            last = block is self.up_blocks[-1]
            if last:
                x, told = self._outward(x, encoded), encoded.outer
            taken = tuple(skips[-len(block.resnets) :])
            del skips[-len(block.resnets) :]
            size = self._size_after(block, skips) if force_sizes and not last else None
            x = block(x, res_hidden_states_tuple=taken, upsample_size=size, **_accepted(block, told))
        return x

    def _outward(self, x: Tensor, encoded: Encoded) -> Tensor:
        x = x if self.frame_up is None else self.frame_up(x, _frames(encoded.inner), _frames(encoded.outer))
        return x if self.space_up is None else self.space_up(x, tuple(encoded.skips[0].shape[2:]))

    def _needs_sizes(self, sample: Tensor) -> bool:
        """Latents that the upsamplers cannot double back to their own size need the skips' sizes passed on."""
        halvings = self.num_upsamplers + (self.space_up is not None)
        return any(size % 2**halvings for size in sample.shape[-2:])

    def _size_after(self, block: nn.Module, skips: list[Tensor]) -> tuple[int, int]:
        """What ``block``'s upsampler leads to: the next skip's height and width, or what ``space_up`` doubles to it."""
        height, width = skips[-1].shape[2:]
        halved = block is self.up_blocks[-2] and self.space_up is not None
        return ((height + 1) // 2, (width + 1) // 2) if halved else (height, width)


def temporal_blocks(unet: nn.Module) -> dict[str, nn.Module]:
    """Name → block, in the network's order, for every ResBlock and transformer that still holds its temporal half."""
    kinds = (SpatioTemporalResBlock, TransformerSpatioTemporalModel)
    return {name: module for name, module in unet.named_modules() if isinstance(module, kinds)}


def only_svd(network: nn.Module, edit: str) -> None:
    """Errors: SurgeryError for a network whose forward is not ``VideoUNet``'s, which ``edit`` relies on."""
    if not isinstance(network, VideoUNet):
        what = "This edit is for SVD's own network"
        raise SurgeryError(what, got=type(network).__name__, allowed=VideoUNet.__name__, where=edit)


def config_of(unet: VideoUNet) -> dict:
    """The network's configuration as plain JSON values, under the class name that diffusers knows."""
    kept = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    return {"_class_name": UNetSpatioTemporalConditionModel.__name__, **kept}


def _accepted(block: nn.Module, told: dict[str, Tensor]) -> dict[str, Tensor]:
    if getattr(block, "has_cross_attention", False):
        return told
    return {key: value for key, value in told.items() if key != "encoder_hidden_states"}


def _frames(told: dict[str, Tensor]) -> int:
    return told["image_only_indicator"].shape[1]
