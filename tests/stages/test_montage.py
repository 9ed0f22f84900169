"""Clips side by side play in step, in their order and colours; the strip holds one row a contender."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from mobilevd.stages import montage

FRAMES, CLIPS = 6, 4
LEVELS = {"real": (250, 10), "teacher": (10, 250)}


def columns() -> dict[str, torch.Tensor]:
    """Flat clips N F 3 H W: red grows with the frame, green is the contender's, blue counts the clips."""
    made = {}
    for name, (green, _) in LEVELS.items():
        video = torch.zeros(CLIPS, FRAMES, 3, 32, 64, dtype=torch.uint8)
        video[:, :, 0] = (40 * torch.arange(FRAMES, dtype=torch.uint8))[None, :, None, None]
        video[:, :, 1] = green
        video[:, :, 2] = (60 * torch.arange(CLIPS, dtype=torch.uint8))[:, None, None, None]
        made[name] = video
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("montage")
    return folder, montage.clips(columns(), 7.0, folder)


def frames(path) -> list[np.ndarray]:
    with Image.open(path) as picture:
        return [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(picture)]


def test_every_clip_has_one_picture_in_which_all_columns_show_the_same_moment(made):
    folder, _ = made
    endings = ("-difference", "-strip", "")
    expected = sorted(f"{k:02d}{ending}.webp" for k in range(CLIPS) for ending in endings)
    assert sorted(p.name for p in (folder / "clips").iterdir()) == expected
    for clip in range(CLIPS):
        shown = frames(folder / "clips" / f"{clip:02d}.webp")
        assert len(shown) == FRAMES
        for index, frame in enumerate(shown):
            assert frame.shape == (128, 512, 3), "two columns of 256 pixels, the clip's own aspect"
            for column, green in ((frame[:, :240], 250), (frame[:, 272:], 10)):
                colour = column.mean(axis=(0, 1))
                assert colour == pytest.approx([40 * index, green, 60 * clip], abs=10)


def test_difference_is_to_the_first_column_four_times_as_loud(made):
    folder, _ = made
    first = frames(folder / "clips" / "01-difference.webp")[0]
    assert first[:, :240].max() < 10
    assert first[:, 272:].mean(axis=(0, 1)) == pytest.approx([0, 255, 0], abs=10)  # 4 x 240, at its end


def test_picture_plays_at_the_clips_rate_and_repeats(made):
    folder, _ = made
    with Image.open(folder / "clips" / "00.webp") as picture:
        picture.seek(1)
        picture.load()
        assert picture.info["duration"] == pytest.approx(1000 / 7, abs=1)
        assert picture.info["loop"] == 0


def test_strip_has_a_row_a_contender_from_the_first_frame_to_the_last(made):
    folder, _ = made
    sheet = np.asarray(Image.open(folder / "strip.png")).astype(int)
    assert sheet.shape == (2 * 128, 5 * 256, 3)
    reds = [sheet[64, 128 + 256 * k, 0] for k in range(5)]
    assert (reds[0], reds[-1]) == (0, 40 * (FRAMES - 1))
    assert reds == sorted(reds)
    assert [sheet[64 + 128 * row, 128, 1] for row in range(2)] == [250, 10]


def test_card_gets_the_strip_and_at_most_three_clips_by_paths_that_exist(made):
    folder, pictures = made
    assert list(pictures.values()) == ["strip.png", "clips/00.webp", "clips/01.webp", "clips/02.webp"]
    assert all((folder / path).is_file() for path in pictures.values())
    assert all(name.startswith("real | teacher") for name in pictures)
