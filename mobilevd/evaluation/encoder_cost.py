"""What SVD's autoencoder and image encoder cost beside the network: once per clip, whatever the number of evaluations.

**Source** SVD's configurations (``svd/reference.py``); 2 FLOPs per multiply-add as in ``cost.py``. The paper counts the
UNet alone. **Keeps** the published parameter counts (``tests/evaluation/test_encoder_cost.py``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mobilevd.evaluation.cost import PIXELS_PER_LATENT
from mobilevd.svd import reference


@dataclass(frozen=True)
class Encoding:
    """One use of a network around the UNet: what it does, its 10^12 operations, its 10^6 parameters."""

    row: str
    tflops: float
    params_m: float


@cache
def encodings(size: tuple[int, int]) -> tuple[Encoding, ...]:
    """One photograph in, 14 frames out, at ``size`` (width, height) pixels; the image encoder has a size of its own."""
    width, height = size
    vae, tower = reference.autoencoder(), reference.image_encoder()
    frames, side = reference.UNET["num_frames"], reference.IMAGE_ENCODER["image_size"]
    photo, view = torch.empty(1, 3, height, width, device="meta"), torch.empty(1, 3, side, side, device="meta")
    latents = torch.empty(frames, 4, height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT, device="meta")
    return (
        _counted("image encoder, 1 photograph", lambda: tower(view), tower),
        _counted("autoencoder, encode 1 photograph", lambda: vae.encode(photo), vae.encoder, vae.quant_conv),
        _counted(f"autoencoder, decode {frames} frames", lambda: vae.decode(latents, num_frames=frames), vae.decoder),
    )


def _counted(row: str, call: Callable[[], object], *parts: nn.Module) -> Encoding:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    weights = sum(p.numel() for part in parts for p in part.parameters())
    return Encoding(row, counter.get_total_flops() / 1e12, weights / 1e6)
