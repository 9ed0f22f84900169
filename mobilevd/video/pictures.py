"""Pictures of clips for people: a contact sheet of first frames with their side, and a clip as a strip of frames."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from torch import Tensor

COLOURS = {"train": (40, 110, 200), "validation": (230, 120, 20)}
COLUMNS, EDGE = 8, 4


def thumbnail(frame: UInt8[Tensor, "3 H W"], width: int = 160) -> Image.Image:
    """One frame, ``width`` pixels wide."""
    picture = Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
    return picture.resize((width, max(1, round(width * picture.height / picture.width))), Image.Resampling.BICUBIC)


def contact_sheet(frames: list[Image.Image], sides: list[str], path: Path) -> Path:
    """Lay equally large first frames in rows, each framed in the colour of its side, with a legend on top."""
    width, height = frames[0].width + 2 * EDGE, frames[0].height + 2 * EDGE
    rows = -(-len(frames) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width, rows * height + 20), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (side, colour) in enumerate(COLOURS.items()):
        draw.text((6 + 120 * index, 4), side, fill=colour)
    for index, (frame, side) in enumerate(zip(frames, sides, strict=True)):
        left, top = index % COLUMNS * width, index // COLUMNS * height + 20
        draw.rectangle((left + 1, top + 1, left + width - 2, top + height - 2), fill=COLOURS[side])
        sheet.paste(frame, (left + EDGE, top + EDGE))
    return _saved(sheet, path)


def strip(video: UInt8[Tensor, "F 3 H W"], path: Path, at_most: int = 7) -> Path:
    """Frames of one clip side by side, from the first to the last."""
    kept = np.linspace(0, len(video) - 1, min(at_most, len(video))).round().astype(int).tolist()
    frames = [thumbnail(video[index]) for index in kept]
    picture = Image.fromarray(np.concatenate([np.asarray(frame) for frame in frames], axis=1))
    return _saved(picture, path)


def _saved(picture: Image.Image, path: Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path
