"""Two folders of videos, any codec, measured against each other: ``mobilevd evaluate``."""

from pathlib import Path

import torch
from torch import Tensor

from mobilevd.errors import DataError
from mobilevd.evaluation import fvd, i3d, motion
from mobilevd.params import Clip
from mobilevd.video import clips
from mobilevd.video.decode import UnusableError

SIZE = Clip()


def folders(real: Path, generated: Path, frames: int, fps: float) -> dict[str, float | str]:
    """FVD, KVD and motion of the first clip of every video; every file must be usable. Errors: DataError."""
    clip = Clip(frames=frames, fps=fps, width=SIZE.width, height=SIZE.height)
    videos = {name: _first_clips(folder, clip) for name, folder in (("real", real), ("generated", generated))}
    net = i3d.load()
    seen = {name: i3d.features(video, net, progress=f"features {name}") for name, video in videos.items()}
    return {
        "fvd": fvd.frechet(seen["real"], seen["generated"]),
        "kvd": fvd.kvd(seen["real"], seen["generated"]),
        "motion_ratio": motion.energy_ratio(videos["generated"], videos["real"]),
        "first_frame_copy_rate": motion.first_frame_copy_rate(videos["generated"]).mean().item(),
        "real_clips": len(videos["real"]),
        "generated_clips": len(videos["generated"]),
        "protocol": f"{frames} frames at {fps:g} fps, {clip.width}x{clip.height}, tf-reference",
    }


def _first_clips(folder: Path, clip: Clip) -> Tensor:
    paths = sorted(p for p in Path(folder).rglob("*") if p.is_file() and not p.name.startswith("."))
    if len(paths) < 2:
        raise DataError("Too few videos to compare", got=f"{len(paths)} in {folder}", allowed="two or more")
    return torch.stack([_first_clip(path, clip) for path in paths])


def _first_clip(path: Path, clip: Clip) -> Tensor:
    try:
        return next(clips.windows(path, clip, at_most=1))
    except UnusableError as error:
        raise DataError("A video cannot be used", got=f"{path}: {error}", where="take it out of the folder") from error
