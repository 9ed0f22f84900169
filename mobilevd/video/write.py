"""Frames to a file that people can play: MP4 (H.264), GIF or WebP, by the name's ending. **Axes** F H W 3 uint8."""

import os
from errno import EACCES
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mobilevd.errors import MobileVDError

SUFFIXES = (".mp4", ".gif", ".webp")


def save(frames: UInt8[np.ndarray, "F H W 3"], path: Path, fps: float) -> Path:
    """Write ``frames`` whole or not at all. Errors: MobileVDError when the name's ending is not one of SUFFIXES."""
    path = Path(path)
    check_name(path)
    check_place(path.parent)
    aside = path.with_name(f".part-{path.name}")
    if path.suffix.lower() == ".mp4":
        _mp4(frames, aside, fps)
    else:
        first, *rest = [Image.fromarray(frame) for frame in frames]
        first.save(aside, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
    aside.replace(path)
    return path


def check_name(path: Path) -> None:
    """Refuse an ending that cannot be written, before any work."""
    if path.suffix.lower() not in SUFFIXES:
        raise MobileVDError(
            "This kind of file cannot be written",
            got=path.name,
            allowed=f"a name that ends in {', '.join(SUFFIXES)}",
            where="the output path",
        )


def check_place(folder: Path) -> None:
    """Make the folder that films go to. Errors: MobileVDError when nothing can be written there, before any work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(EACCES, os.strerror(EACCES), str(folder))
    except OSError as error:
        raise MobileVDError(
            "Nothing can be written there",
            got=f"{folder}: {error.strerror}",
            allowed="a folder",
            where="the output path",
        ) from None


def _mp4(frames, path: Path, fps: float) -> None:
    from fractions import Fraction

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "18"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
