"""Clips side by side in one animated picture, so that every column plays in step; strips of frames; difference maps.

**Keeps** every column at the same moment (``tests/stages/test_montage.py``). **Axes** clip F 3 H W, uint8.
"""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mobilevd.evaluation.gallery import Clip

COLUMN_WIDTH = 256
STRIP_FRAMES = 5
LOUDER = 4  # by what differences are multiplied before they are shown


def clips(columns: dict[str, Tensor], fps: float, workdir: Path) -> dict[str, str]:
    """Write ``clips/NN.webp``, ``NN-strip.webp`` and ``NN-difference.webp`` for every clip, and ``strip.png``.

    ``columns``: name → uint8 N F 3 H W, the same N and F for all, real clips first. Returns card pictures: name → path
    under workdir.
    """
    folder = Path(workdir) / "clips"
    folder.mkdir(parents=True, exist_ok=True)
    count = len(next(iter(columns.values())))
    for index in range(count):
        made = shown("", {name: video[index] for name, video in columns.items()}, fps, {}, "")
        for ending, data in (("", made.webp), ("-strip", made.strip), ("-difference", made.difference)):
            (folder / f"{index:02d}{ending}.webp").write_bytes(data)
    strip({name: video[0] for name, video in columns.items()}, Path(workdir) / "strip.png")
    label = " | ".join(columns)
    return {f"{label}, frames 0 to last": "strip.png"} | {
        f"{label}, clip {index}": f"clips/{index:02d}.webp" for index in range(min(count, 3))
    }


def shown(name: str, columns: dict[str, Tensor], fps: float, distances: dict[str, float], by: str) -> Clip:
    """One clip for the page: the first column is the real one, the distance of column ``by`` sorts it."""
    reference, *others = columns.values()
    apart = [(video.int() - reference.int()).abs().mul(LOUDER).clamp(max=255).to(torch.uint8) for video in others]
    stream = BytesIO()
    _strip(columns).save(stream, "WEBP", quality=75)
    return Clip(
        name,
        "",
        list(columns),
        _animation(list(columns.values()), fps),
        distances.get(by),
        distances,
        stream.getvalue(),
        _animation([torch.zeros_like(reference), *apart], fps),
    )


def _animation(videos: list[Tensor], fps: float) -> bytes:
    frames = [_row([video[f] for video in videos]) for f in range(len(videos[0]))]
    stream, options = BytesIO(), {"duration": round(1000 / fps), "loop": 0, "quality": 75}
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:], **options)
    return stream.getvalue()


def strip(videos: dict[str, Tensor], path: Path) -> None:
    """One row per video, five frames each from the first to the last, as a PNG."""
    _strip(videos).save(path)


def _strip(videos: dict[str, Tensor]) -> Image.Image:
    picked = np.linspace(0, len(next(iter(videos.values()))) - 1, STRIP_FRAMES).round().astype(int)
    rows = [_row([video[f] for f in picked]) for video in videos.values()]
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)))
    for index, row in enumerate(rows):
        sheet.paste(row, (0, index * row.height))
    return sheet


def _row(pictures: list[Tensor]) -> Image.Image:
    height = round(COLUMN_WIDTH * pictures[0].shape[-2] / pictures[0].shape[-1])
    row = Image.new("RGB", (COLUMN_WIDTH * len(pictures), height))
    for index, picture in enumerate(pictures):
        image = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize(
            (COLUMN_WIDTH, height), Image.Resampling.LANCZOS
        )
        row.paste(image, (index * COLUMN_WIDTH, 0))
    return row
