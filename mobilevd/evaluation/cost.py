"""What one evaluation of a network costs: floating-point operations and parameters, counted without computing anything.

**Source** MobileVD (arXiv 2412.07583) Tables 1, 2: one UNet evaluation, batch 1, 14 frames; 2 FLOPs per multiply-add,
attention products included. **Keeps** every rung within 2 % of the paper's figure (``tests/evaluation/test_cost.py``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from mobilevd.errors import SurgeryError
from mobilevd.method import channel_funnel, cross_attention, temporal_multiscale, temporal_pruning
from mobilevd.svd.unet import VideoUNet, temporal_blocks

SVD = {
    "sample_size": 96,
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "num_attention_heads": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 768,
    "num_frames": 14,
}
SVD_LATENTS = (1, 14, 4, 32, 64)  # 14 frames of 512x256
SVD_LATENTS_HD = (1, 14, 4, 72, 128)  # 14 frames of 1024x576


@dataclass(frozen=True)
class Cost:
    """One evaluation of a network: ``tflops`` in 10^12 floating-point operations, ``params_m`` in 10^6 parameters."""

    tflops: float
    params_m: float


@dataclass(frozen=True)
class Rung:
    """One row of the paper's ladder: the file that makes it, the paper's TFLOPs, and our count."""

    name: str
    file: str
    paper_tflops: float
    cost: Cost

    @property
    def deviation(self) -> float:
        """(ours − paper) / paper."""
        return self.cost.tflops / self.paper_tflops - 1.0


def count(unet: VideoUNet, latents: Sequence[int]) -> Cost:
    """The cost of one evaluation on a clip whose latents have the shape ``latents`` (B F C H W).

    The network may hold real or meta weights and is not changed: shapes are walked on the meta device, where attention
    is two plain matrix products and is counted alike on every machine. Errors: SurgeryError for foreign latents.
    """
    batch, frames, channels, height, width = latents
    config = unet.config
    if channels != config.out_channels:
        raise SurgeryError("These latents are not this network's", got=channels, allowed=str(config.out_channels))
    like = {"device": "meta", "dtype": next(unet.parameters()).dtype}
    given = (
        torch.empty(batch, frames, config.in_channels, height, width, **like),
        torch.empty(batch, **like),
        torch.empty(batch, 1, _context_width(config.cross_attention_dim), **like),
        torch.empty(batch, config.projection_class_embeddings_input_dim // config.addition_time_embed_dim, **like),
    )
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in unet.state_dict().items()}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        torch.func.functional_call(unet, shapes, given)
    return Cost(counter.get_total_flops() / 1e12, sum(p.numel() for p in unet.parameters()) / 1e6)


def ladder() -> list[Rung]:
    """SVD at 14 x 512x256 under the paper's edits, one after the other, and SVD at 1024x576."""
    return list(_rungs())


def _rungs() -> Iterator[Rung]:
    with torch.device("meta"):
        unet = VideoUNet(**SVD)
    yield Rung("SVD 1024x576", "svd/unet.py", 45.43, count(unet, SVD_LATENTS_HD))
    yield Rung("SVD 512x256", "svd/unet.py", 8.60, count(unet, SVD_LATENTS))
    cross_attention.apply(unet)
    yield Rung("+ optimized cross-attention", "method/cross_attention.py", 8.24, count(unet, SVD_LATENTS))
    temporal_multiscale.apply(unet)
    yield Rung("+ temporal multiscaling", "method/temporal_multiscale.py", 5.42, count(unet, SVD_LATENTS))
    temporal_pruning.remove(unet, paper_keep(unet))
    yield Rung("+ temporal block pruning", "method/temporal_pruning.py", 4.64, count(unet, SVD_LATENTS))
    channel_funnel.narrow(unet, 0.5, "spatial")
    yield Rung("+ channel funneling", "method/channel_funnel.py", 4.34, count(unet, SVD_LATENTS))


def paper_keep(unet: VideoUNet) -> list[str]:
    """11 of SVD's 38 temporal blocks: 5 transformers at level 0, 5 at level 1 and 1 at level 2.

    Deviates: the paper does not print its layout; this one has its budget (30 % of the blocks) and its FLOPs.
    """
    outer = ("down_blocks.0.att", "up_blocks.3.att", "down_blocks.1.att", "up_blocks.2.att", "up_blocks.1.attentions.0")
    return [name for name in temporal_blocks(unet) if name.startswith(outer)]


def _context_width(cross_attention_dim: int | Sequence[int]) -> int:
    return cross_attention_dim if isinstance(cross_attention_dim, int) else cross_attention_dim[0]
