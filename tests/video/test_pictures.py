import numpy as np
import torch
from PIL import Image

from mobilevd.video import pictures


def test_contact_sheet_frames_every_clip_in_the_colour_of_its_side(tmp_path):
    frame = pictures.thumbnail(torch.full((3, 64, 128), 200, dtype=torch.uint8), width=32)
    assert frame.size == (32, 16)
    sides = ["train"] * 9 + ["validation"]
    sheet = np.asarray(Image.open(pictures.contact_sheet([frame] * 10, sides, tmp_path / "sheet.png")))
    cells = [sheet[20 + (k // 8) * 24 :, (k % 8) * 40 :][:24, :40] for k in range(10)]
    assert [tuple(cell[2, 2]) for cell in cells] == [pictures.COLOURS[side] for side in sides]
    assert all((cell[4:20, 4:36] == 200).all() for cell in cells)


def test_strip_runs_from_the_first_frame_to_the_last(tmp_path):
    video = torch.arange(14, dtype=torch.uint8)[:, None, None, None].expand(14, 3, 8, 16) * 10
    strip = np.asarray(Image.open(pictures.strip(video, tmp_path / "strip.png", at_most=4)))
    assert [int(strip[0, 160 * k, 0]) for k in range(4)] == [0, 40, 90, 130]
