"""Clips: sources told apart, split by scene, cut into windows, resized to cover and cropped at the centre.

**Keeps** no scene on both sides; windows of a video never overlap unless asked to (``tests/video/test_clips.py``).
**Axes** clip F 3 H W uint8, photograph 3 H W uint8.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from mobilevd.settings import Clip
from mobilevd.video import decode
from mobilevd.video.decode import Reason, Timing, UnusableError
from mobilevd.video.photo import SUFFIXES, fit, upright
from mobilevd.video.render import render
from mobilevd.video.split import by_scene, scenes


@dataclass(frozen=True)
class Source:
    """One file to learn from: its path inside the data folder, and where it lies."""

    name: str
    path: Path

    @property
    def is_photo(self) -> bool:
        return self.path.suffix.lower() in SUFFIXES

    @property
    def is_hidden(self) -> bool:
        return self.name.startswith(".") or "/." in self.name


def sources(data: Path) -> list[Source]:
    """Every file under ``data`` in the order of its name; names that begin with a dot are none of ours.

    Links to folders, which nobody follows, and links to nothing are among them, so that who reads them says so.
    """
    paths = [path for path in sorted(Path(data).rglob("*")) if path.is_file() or path.is_symlink()]
    found = [Source(path.relative_to(data).as_posix(), path) for path in paths]
    return [source for source in found if not source.is_hidden]


def sides(found: list[Source], validation_share: float, scene: str | None = None) -> dict[str, str]:
    """Map each source's name to "train" or "validation": videos and photographs each on both sides.

    A kind with a single scene trains only; see scenes() for what stays together, by ``scene`` of the recipe.
    """
    chosen: dict[str, str] = {}
    for photos in (False, True):
        kind = [source for source in found if source.is_photo == photos]
        chosen |= by_scene(scenes([source.name for source in kind], scene), validation_share)
    return chosen


def windows(
    path: Path, clip: Clip, *, stride_s: float | None = None, at_most: int | None = None
) -> Iterator[UInt8[Tensor, "F 3 H W"]]:
    """Every window of a video, see starts(); one in memory at a time. Errors: UnusableError."""
    timing = decode.timing(path)
    for start_s in starts(timing, clip, stride_s=stride_s, at_most=at_most):
        yield window(path, clip, timing, start_s)


def starts(timing: Timing, clip: Clip, *, stride_s: float | None = None, at_most: int | None = None) -> list[float]:
    """Where windows of F frames begin, in seconds after the first picture; side by side unless ``stride_s`` is given.

    ``at_most`` keeps that many, spread evenly over the video. Errors: UnusableError when not even one fits.
    """
    span_s, stride_s = (clip.frames - 1) / clip.fps, stride_s or clip.frames / clip.fps
    slack_s = timing.length_s - span_s + decode.ROUNDING_S
    if slack_s < 0:
        raise UnusableError(Reason.TOO_SHORT, f"{timing.length_s:.2f} s, a clip spans {span_s:.2f} s")
    count = int(slack_s / stride_s) + 1
    kept = (
        range(count) if at_most is None or count <= at_most else np.linspace(0, count - 1, at_most).round().astype(int)
    )
    return [float(k * stride_s) for k in kept]


def window(path: Path, clip: Clip, timing: Timing, start_s: float) -> UInt8[Tensor, "F 3 H W"]:
    """One window of a video, fitted to the clip's size. Errors: UnusableError when the file breaks inside it."""
    pictures = decode.frames(path, clip.fps, timing, start_s, clip.frames)
    return torch.stack([_tensor(fit(Image.fromarray(picture), clip.width, clip.height)) for picture in pictures])


def photograph(path: Path) -> UInt8[Tensor, "3 H W"]:
    """A photograph upright and in colour, at its own size. Errors: UnusableError."""
    return _tensor(upright(path))


def rendered(
    photo: UInt8[Tensor, "3 Hp Wp"], source_sha256: str, index: int, clip: Clip
) -> tuple[UInt8[Tensor, "F 3 H W"], str]:
    """Clip number ``index`` of a photograph and its motion's name: a function of the file's bytes and the number."""
    return render(photo, clip, seed_of(source_sha256, index))


def seed_of(source_sha256: str, index: int) -> int:
    """What clip number ``index`` of a photograph is drawn by."""
    return int(hashlib.sha256(f"{source_sha256}:{index}".encode()).hexdigest()[:15], 16)


def motion(video: UInt8[Tensor, "F 3 H W"]) -> float:
    """Mean absolute difference between neighbouring frames, pixels in [0, 1]."""
    frames = video.float().div(255)
    return float((frames[1:] - frames[:-1]).abs().mean())


def digest(video: UInt8[Tensor, "F 3 H W"]) -> str:
    """sha256 over the clip's shape and pixels."""
    content = hashlib.sha256(str(tuple(video.shape)).encode())
    content.update(video.contiguous().numpy().data)
    return content.hexdigest()


def _tensor(picture: Image.Image) -> UInt8[Tensor, "3 H W"]:
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()
