"""Clips rendered from photographs: real texture, known camera motion, the same bits for the same seed.

**Axes** photo 3 H W uint8 → clip F 3 H W uint8. **Keeps** every frame inside the photograph, or mirrored at its edge.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from mobilevd.settings import Clip

FINE = 2.5  # so many pixels of a photograph per pixel of the clip are sampled as they are, more would flicker
MOTIONS = ("pan", "zoom", "pan-zoom", "roll", "parallax")


@dataclass(frozen=True)
class Camera:
    """One camera path over the photograph, in photograph pixels; every field has F values."""

    x: Tensor
    y: Tensor
    width: Tensor
    angle: Tensor


def render(photo: UInt8[Tensor, "3 Hp Wp"], clip: Clip, seed: int) -> tuple[UInt8[Tensor, "F 3 H W"], str]:
    """Move a camera over ``photo`` for one clip; returns the frames and the motion's name out of MOTIONS."""
    motion, camera, generator = drawn(photo, clip, seed)
    return filmed(photo, motion, camera, clip, generator), motion


def drawn(photo: UInt8[Tensor, "3 Hp Wp"], clip: Clip, seed: int) -> tuple[str, Camera, torch.Generator]:
    """The motion and the camera's path of ``seed``; the generator stands where a nearer layer is drawn next."""
    generator = torch.Generator().manual_seed(seed)
    motion = MOTIONS[int(torch.randint(len(MOTIONS), (1,), generator=generator))]
    return motion, _path(motion, photo.shape[-1], photo.shape[-2], clip, generator), generator


def filmed(
    photo: UInt8[Tensor, "3 Hp Wp"], motion: str, camera: Camera, clip: Clip, generator: torch.Generator
) -> UInt8[Tensor, "F 3 H W"]:
    """What the camera sees on its path; for parallax with a nearer layer, drawn by ``generator``."""
    pixels = photo.float().div(255)
    frames = _shoot(pixels, camera, clip)
    if motion == "parallax":
        frames = _parallax(pixels, frames, camera, clip, generator)
    return frames.mul(255).round().clamp(0, 255).to(torch.uint8)


def _path(motion: str, photo_width: int, photo_height: int, clip: Clip, generator: torch.Generator) -> Camera:
    """A start and an end pose inside the photograph, joined at a speed that eases by a random amount."""
    aspect = clip.width / clip.height
    widest = min(photo_width, photo_height * aspect)
    t = _eased(clip.frames, generator)
    width = widest * _uniform(0.55, 0.75, generator)
    zoom = _sign(generator) * _uniform(0.04, 0.10, generator) if "zoom" in motion else 0.0
    shift = _uniform(0.02, 0.06, generator) * width if motion != "zoom" else 0.0
    direction = _uniform(-0.6, 0.6, generator) + (torch.pi if _sign(generator) < 0 else 0.0)
    angle = _sign(generator) * _uniform(0.015, 0.05, generator) if motion == "roll" else 0.0
    dx, dy = shift * float(torch.cos(torch.tensor(direction))), shift * float(torch.sin(torch.tensor(direction)))
    x = _inside(float(photo_width), width + abs(dx), generator)
    y = _inside(float(photo_height), width / aspect + abs(dy), generator)
    return Camera(x + dx * (t - 0.5), y + dy * (t - 0.5), width * torch.exp(zoom * (t - 0.5)), angle * (t - 0.5))


def _shoot(pixels: Tensor, camera: Camera, clip: Clip) -> Tensor:
    """Sample the photograph along the camera's path: 3 Hp Wp → F 3 H W, values in [0, 1]."""
    times = _times(camera, clip)
    pixels = F.avg_pool2d(pixels, times) if times > 1 else pixels
    photo_height, photo_width = (times * length for length in pixels.shape[-2:])
    v = (torch.arange(clip.height) + 0.5) / clip.height - 0.5
    u = (torch.arange(clip.width) + 0.5) / clip.width - 0.5
    v, u = torch.meshgrid(v * clip.height / clip.width, u, indexing="ij")
    cos, sin, width = (a[:, None, None] for a in (camera.angle.cos(), camera.angle.sin(), camera.width))
    px = camera.x[:, None, None] + width * (cos * u - sin * v)
    py = camera.y[:, None, None] + width * (sin * u + cos * v)
    grid = torch.stack([2 * px / photo_width - 1, 2 * py / photo_height - 1], dim=-1)
    photos = pixels.expand(clip.frames, -1, -1, -1)
    return F.grid_sample(photos, grid, mode="bicubic", padding_mode="reflection", align_corners=False).clamp(0, 1)


def _times(camera: Camera, clip: Clip) -> int:
    """So many pixels of the photograph, along each side, are averaged to one before the camera looks."""
    density = float(camera.width.max()) / clip.width
    return int(density) if density > FINE else 1


def _parallax(pixels: Tensor, behind: Tensor, camera: Camera, clip: Clip, generator: torch.Generator) -> Tensor:
    """Lay a soft oval of the mirrored photograph over the clip; being nearer, it crosses the view faster."""
    nearness = _uniform(1.5, 2.5, generator)
    travel = (camera.x - camera.x.mean()) * (nearness - 1)
    near = Camera(camera.x.flip(0), camera.y, camera.width * 0.8, -camera.angle)
    front = _shoot(pixels.flip(-1), near, clip)
    v = torch.linspace(-1, 1, clip.height)[None, :, None] - _uniform(-0.4, 0.4, generator)
    u = torch.linspace(-1, 1, clip.width)[None, None, :] - _uniform(-0.5, 0.5, generator)
    u = u + (2 * travel / camera.width)[:, None, None]
    radius = _uniform(0.25, 0.45, generator)
    inside = 1 - ((2 * u).square() + v.square()).sqrt() / (2 * radius)
    mask = (inside * 12).sigmoid()[:, None]
    return mask * front + (1 - mask) * behind


def _eased(frames: int, generator: torch.Generator) -> Tensor:
    t = torch.linspace(0, 1, frames)
    ease = _uniform(0.0, 1.0, generator)
    return (1 - ease) * t + ease * t * t * (3 - 2 * t)


def _inside(length: float, needed: float, generator: torch.Generator) -> float:
    """A centre such that ``needed`` pixels around it lie inside ``length``, or the middle when they do not fit."""
    slack = max(0.0, length - needed)
    return length / 2 + slack * _uniform(-0.5, 0.5, generator)


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand(1, generator=generator))


def _sign(generator: torch.Generator) -> int:
    return 1 if float(torch.rand(1, generator=generator)) < 0.5 else -1
