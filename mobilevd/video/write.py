"""Frames to a file that people can play: MP4 (H.264), GIF or WebP, by the name's ending. **Axes** F H W 3 uint8."""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mobilevd.errors import MobileVDError

SUFFIXES = (".mp4", ".gif", ".webp")
PLACE = "the output path"


def save(frames: UInt8[np.ndarray, "F H W 3"], path: Path, fps: float) -> Path:
    """Write ``frames`` whole or not at all, and leave nothing beside them.

    Errors: MobileVDError when the name's ending is not one of SUFFIXES, or the file cannot be written.
    """
    path = Path(path)
    check_name(path)
    check_place(path.parent)
    aside = path.with_name(f".part-{path.name}")
    try:
        (_mp4 if path.suffix.lower() == ".mp4" else _animated)(frames, aside, fps)
        aside.replace(path)
    except (OSError, av.FFmpegError) as error:
        raise _unwritable("The film cannot be written", path, error) from None
    finally:
        with suppress(OSError):
            aside.unlink()
    return path


def check_name(path: Path, where: str = PLACE) -> None:
    """Refuse an ending that cannot be written, before any work; ``where`` it was asked for."""
    if path.suffix.lower() not in SUFFIXES:
        raise MobileVDError(
            "This kind of file cannot be written",
            got=path.name,
            allowed=f"a name that ends in {', '.join(SUFFIXES)}",
            where=where,
        )


def check_place(folder: Path) -> None:
    """Make the folder that films go to. Errors: MobileVDError when nothing can be written there, before any work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable("Nothing can be written there", folder, error) from None


def _unwritable(what: str, path: Path, error: OSError | av.FFmpegError) -> MobileVDError:
    allowed = "a place that can be written to, and has room"
    return MobileVDError(what, got=f"{path}: {error.strerror}", allowed=allowed, where=PLACE)


def _animated(frames, path: Path, fps: float) -> None:
    first, *rest = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)


def _mp4(frames, path: Path, fps: float) -> None:
    from fractions import Fraction

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "18"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
