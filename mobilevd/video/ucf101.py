"""UCF-101 as the papers evaluate on it: the official splits, one clip per video by timestamps, listed in a manifest.

**Source** paper Sec. 4 (first frame given, 14 frames at 7 or 25 fps); how many clips: open, all of the split here.
**Keeps** two laboratories with one manifest use the same clips, or are told which differs
(``tests/video/test_ucf101.py``). **Axes** clip F 3 H W, at the videos' own size.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mobilevd.artifacts import file_sha256
from mobilevd.errors import DataError, IntegrityError
from mobilevd.progress import track
from mobilevd.settings import Clip
from mobilevd.video import decode
from mobilevd.video.decode import UnusableError

SPLITS = tuple(f"{side}list{number:02d}" for side in ("train", "test") for number in (1, 2, 3))


@dataclass(frozen=True)
class Line:
    """One clip: its video (path under the data folder) and the video's digest; it starts at the first picture."""

    video: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What is evaluated on: the protocol's numbers, the clips, and the videos that cannot give one, with the reason."""

    split: str
    frames: int
    fps: float
    width: int
    height: int
    clips: tuple[Line, ...]
    left_out: dict[str, str]

    @property
    def clip(self) -> Clip:
        """What a model makes of each first frame."""
        return Clip(frames=self.frames, fps=self.fps, width=self.width, height=self.height)

    def save(self, path: Path) -> None:
        """A first line with the protocol and what was left out, then a line per clip, as JSON."""
        told = asdict(self)
        lines = [told, *told.pop("clips")]
        text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
        Path(path).write_text(text, encoding="utf-8")


def read(path: Path) -> Manifest:
    """The manifest at ``path``. Errors: IntegrityError when it is none."""
    try:
        told, *clips = map(json.loads, Path(path).read_text(encoding="utf-8").splitlines())
        return Manifest(**told, clips=tuple(Line(**line) for line in clips))
    except (OSError, ValueError, TypeError) as error:
        got = f"{path}: {error}"
        raise IntegrityError("This is no manifest of clips", got=got, allowed="`mobilevd ucf101 list`") from None


def listed(data: Path, split: str, clip: Clip, at_most: int | None = None) -> Manifest:
    """Look at every video of an official split (or ``at_most``, spread evenly over it) and list what gives a clip.

    ``data`` holds the classes' folders, and the splits' files in ucfTrainTestlist/ or beside it. Errors: DataError.
    """
    names, clips, left_out = _split(Path(data), split), [], {}
    if at_most is not None and at_most < len(names):
        names = [names[k] for k in np.linspace(0, len(names) - 1, at_most).round().astype(int)]
    for name in track(names, len(names), f"looking at {split}"):
        path = Path(data) / name
        if not path.is_file():
            raise DataError("A video of the split is missing", got=str(path), allowed="the whole of UCF-101")
        try:
            _check_length(path, clip)
            clips.append(Line(name, file_sha256(path)))
        except UnusableError as error:
            left_out[name] = str(error)
    return Manifest(split, **clip.model_dump(), clips=tuple(clips), left_out=left_out)


def frames(data: Path, manifest: Manifest, k: int) -> Tensor:
    """Clip ``k``: F 3 H W uint8 at the video's own size, by timestamps from its first picture.

    Errors: IntegrityError when the video is another one; DataError when it cannot be read.
    """
    line = manifest.clips[k]
    path = Path(data) / line.video
    if not path.is_file() or (got := file_sha256(path)) != line.sha256:
        got = got if path.is_file() else "no file"
        raise IntegrityError("A video is not the manifest's", got=got, allowed=line.sha256, where=str(path))
    return torch.stack(list(_pictures(path, manifest.clip)))


def _pictures(path: Path, clip: Clip) -> Iterator[Tensor]:
    try:
        for picture in decode.frames(path, clip.fps, decode.timing(path), 0.0, clip.frames):
            yield torch.from_numpy(picture).permute(2, 0, 1)
    except UnusableError as error:
        raise DataError("A video of the manifest cannot be read", got=f"{path}: {error}") from error


def _check_length(path: Path, clip: Clip) -> None:
    for _ in decode.frames(path, clip.fps, decode.timing(path), 0.0, clip.frames):
        pass


def _split(data: Path, split: str) -> list[str]:
    """The videos' paths as the official list has them: ``Class/v_Class_g01_c01.avi``, then perhaps a class number."""
    if split not in SPLITS:
        raise DataError("UCF-101 has no such split", got=split, allowed=", ".join(SPLITS))
    places = [folder / "ucfTrainTestlist" / f"{split}.txt" for folder in (data, data.parent)]
    for place in places:
        if place.is_file():
            lines = place.read_text(encoding="utf-8").splitlines()
            return sorted(line.split()[0] for line in lines if line.strip())
    raise DataError("The official list of the split is not there", got=str(data), allowed=" or ".join(map(str, places)))
