"""**Source** SVD's autoencoder (arXiv 2311.15127, Sec. 3). **Axes** pixels B F 3 H W in [0, 1].

An autoencoder with 3·p² input channels sees p x p space-to-depth pixels (pocket: p = 16); SVD's own has p = 1.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mobilevd.shapes import Images, Video
from mobilevd.svd.upstream import AutoencoderKLTemporalDecoder

__all__ = ["AutoencoderKLTemporalDecoder", "decode", "downscale", "encode", "patch_size"]


def patch_size(vae: AutoencoderKLTemporalDecoder) -> int:
    """p, the side in pixels of the square that one input position holds: √(in_channels / 3)."""
    return round((vae.config.in_channels / 3) ** 0.5)


def downscale(vae: AutoencoderKLTemporalDecoder) -> int:
    """How many pixels a latent position covers on each side: 8 for SVD, 16 for pocket."""
    return patch_size(vae) * 2 ** (len(vae.config.block_out_channels) - 1)


def encode(vae: AutoencoderKLTemporalDecoder, images: Images, chunk: int = 8) -> Float[Tensor, "B C h w"]:
    """The mode of the posterior, *not* scaled: what SVD concatenates as its image condition."""
    pixels = F.pixel_unshuffle(images * 2 - 1, patch_size(vae))
    return torch.cat([vae.encode(part).latent_dist.mode() for part in pixels.split(chunk)])


def decode(vae: AutoencoderKLTemporalDecoder, latents: Float[Tensor, "B F C h w"]) -> Video:
    """Scaled latents B F C h w → pixels in [0, 1], one clip at a time so that the temporal layers see all of it."""
    return torch.stack([_decode_clip(vae, clip) for clip in latents / vae.config.scaling_factor])


def _decode_clip(vae: AutoencoderKLTemporalDecoder, raw: Float[Tensor, "F C h w"]) -> Float[Tensor, "F 3 H W"]:
    pixels = vae.decode(raw, num_frames=raw.shape[0]).sample
    return (F.pixel_shuffle(pixels, patch_size(vae)) / 2 + 0.5).clamp(0, 1)
