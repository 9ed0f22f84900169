"""What the pocket base learns from: the train side of the sample set and more photographs, under many cameras.

Each clip is 14 x 512x256 at 7 frames per second. Photographs are mirrored and tinted at random before rendering; videos
are cut into windows that start every half second. Nothing of a validation source is read.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from mobilevd.artifacts import file_sha256
from mobilevd.progress import track
from mobilevd.settings import Clip
from mobilevd.video.render import render
from mobilevd.video.split import split

CLIP = Clip()
VALIDATION_SHARE = 0.3


def build(data: Path, more: list[Path], folder: Path, per_photo: int) -> list[Path]:
    """Render ``per_photo`` clips from every training photograph, those of ``data`` and ``more``; cut every training
    video; reuse what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(photo, index) for photo in [*train_sources(data / "photos"), *more] for index in range(per_photo)]
    paths = [_photo_clip(photo, index, folder) for photo, index in track(jobs, len(jobs), "rendering")]
    for video in train_sources(data / "videos"):
        paths += _video_clips(video, folder)
    return paths


def train_sources(folder: Path) -> list[Path]:
    """The files of ``folder`` that fall on the train side of the split."""
    files = sorted(p for p in folder.iterdir() if p.is_file())
    side = split([p.stem for p in files], VALIDATION_SHARE)
    return [p for p in files if side[p.stem] == "train"]


def named(source: Path, index: int) -> str:
    """The file of a source's clip: another picture of the same name makes another."""
    return f"{source.stem}-{file_sha256(source)[:8]}-{index:03d}.safetensors"


def load(path: Path) -> Tensor:
    """One clip: uint8 F 3 H W."""
    return load_file(path)["video"]


def _photo_clip(photo: Path, index: int, folder: Path) -> Path:
    path = folder / named(photo, index)
    if not path.exists():
        generator = torch.Generator().manual_seed(index)
        pixels = torch.from_numpy(np.array(Image.open(photo).convert("RGB"))).permute(2, 0, 1)
        _write(path, render(_varied(pixels, generator), CLIP, seed=1_000_000 + index)[0])
    return path


def _varied(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror at random and scale each colour by up to 15 %: more scenes from few photographs."""
    if torch.rand(1, generator=generator) < 0.5:
        pixels = pixels.flip(-1)
    gain = 1 + 0.3 * (torch.rand(3, 1, 1, generator=generator) - 0.5)
    return (pixels * gain).clamp(0, 255).to(torch.uint8)


def _video_clips(video: Path, folder: Path) -> list[Path]:
    from mobilevd.video.clips import windows

    paths = []
    for index, frames in enumerate(windows(video, CLIP, stride_s=0.5)):
        paths.append(folder / named(video, index))
        if not paths[-1].exists():
            _write(paths[-1], frames)
    return paths


def _write(path: Path, video: Tensor) -> None:
    aside = path.with_suffix(".part")
    save_file({"video": video.contiguous()}, aside)
    aside.replace(path)
