"""What SVD is told beside the noise: the image token, and the ids (fps − 1, motion bucket, noise augmentation σ_c).

**Source** SVD (arXiv 2311.15127, App. D) and diffusers' pipeline, whose preprocessing is called here.
"""

import statistics

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from mobilevd.shapes import AddedIds, Images, Tokens

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
RESIZED_AT_ONCE = 32  # pictures: one for each row and column of a frame are gigabytes
USUAL_BUCKET, BUCKETS = 127, 256


def image_tokens(encoder: CLIPVisionModelWithProjection, images: Images) -> Tokens:
    """One token of the clean first frame: resized with antialiasing, normalised, through the vision encoder."""
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing

    side = encoder.config.image_size
    pixels = (_resize_with_antialiasing(images * 2 - 1, (side, side)) + 1) / 2
    mean, std = (torch.tensor(v, device=pixels.device)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
    return encoder(((pixels - mean) / std).to(encoder.dtype)).image_embeds.unsqueeze(1)


def resizing(height: int, width: int, side: int) -> tuple[Float[Tensor, "S H"], Float[Tensor, "S W"]]:
    """The antialiased resize of H W pixels to ``side`` x ``side`` as matrices: rows @ image @ columnsᵀ.

    It is linear, separable, and leaves a constant as it is: a row's column of ``rows`` is what its ones become.
    """
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing

    def matrix(size: int) -> Tensor:
        rows = torch.eye(size)[:, None, :, None].expand(-1, -1, -1, side)
        parts = (_resize_with_antialiasing(part.contiguous(), (side, side)) for part in rows.split(RESIZED_AT_ONCE))
        return torch.cat([part[:, 0, :, 0] for part in parts]).T.contiguous()

    return matrix(height), matrix(width)


def added_ids(batch: int, fps: float, motion_bucket: int, augmentation_sigma: float) -> AddedIds:
    """(fps − 1, motion bucket, σ_c) for each clip of the batch."""
    return torch.tensor([[fps - 1, float(motion_bucket), augmentation_sigma]]).repeat(batch, 1)


def motion_buckets(motions: list[float]) -> list[int]:
    """127 · motion / median motion of the clips, at most 255: the usual clip has SVD's usual bucket, half of it half.

    ``motions``: mean absolute difference of neighbouring frames. Deviates: SVD's own measure, of optical flow, is not
    published.
    """
    usual = max(statistics.median(motions), 1.0e-9)
    return [min(BUCKETS - 1, round(USUAL_BUCKET * motion / usual)) for motion in motions]
