"""Clips side by side in one animated picture, so that every column plays in step; and one still strip for a card."""

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

COLUMN_WIDTH = 256


def clips(columns: dict[str, Tensor], fps: float, workdir: Path) -> dict[str, str]:
    """Write ``clips/NN.webp`` for every clip and ``strip.png``; returns card pictures: name → path under workdir.

    ``columns``: name → uint8 N F 3 H W, the same N and F for all.
    """
    folder = Path(workdir) / "clips"
    folder.mkdir(parents=True, exist_ok=True)
    count = len(next(iter(columns.values())))
    for index in range(count):
        _animation([video[index] for video in columns.values()], fps, folder / f"{index:02d}.webp")
    strip({name: video[0] for name, video in columns.items()}, Path(workdir) / "strip.png")
    label = " | ".join(columns)
    return {f"{label}, frames 0 to last": "strip.png"} | {
        f"{label}, clip {index}": f"clips/{index:02d}.webp" for index in range(min(count, 3))
    }


def _animation(videos: list[Tensor], fps: float, path: Path) -> None:
    frames = [_row([video[f] for video in videos]) for f in range(len(videos[0]))]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=round(1000 / fps), loop=0, quality=75)


def strip(videos: dict[str, Tensor], path: Path) -> None:
    """One row per video, five frames each from the first to the last, as a PNG."""
    rows = [
        _row([video[f] for f in np.linspace(0, len(video) - 1, 5).round().astype(int)]) for video in videos.values()
    ]
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)))
    for index, row in enumerate(rows):
        sheet.paste(row, (0, index * row.height))
    sheet.save(path)


def _row(pictures: list[Tensor]) -> Image.Image:
    height = round(COLUMN_WIDTH * pictures[0].shape[-2] / pictures[0].shape[-1])
    row = Image.new("RGB", (COLUMN_WIDTH * len(pictures), height))
    for index, picture in enumerate(pictures):
        image = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize(
            (COLUMN_WIDTH, height), Image.Resampling.LANCZOS
        )
        row.paste(image, (index * COLUMN_WIDTH, 0))
    return row
