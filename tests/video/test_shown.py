"""A picture is one moment with square pixels, and one that is so already keeps the decoder's values."""

import numpy as np
import pytest
from movies import texture, write_video

from mobilevd.video import decode, shown

INTERLACED = {"codec": "libx264", "options": {"flags": "+ildct+ilme", "x264-params": "tff=1", "qp": "1"}}
TIMES = [k / 10 for k in range(12)]


def bars(count: int) -> list[np.ndarray]:
    """A bar that moves from one field to the next, beside noise that stands still; all in grey."""
    found, noise = [], np.random.default_rng(0).integers(40, 200, (64, 128, 1), dtype=np.uint8)
    for k in range(count):
        picture = np.full((64, 256, 3), 60, np.uint8)
        picture[:, 128:] = noise
        for field in (0, 1):
            at = 6 * (2 * k + field) % 90
            picture[field::2, at : at + 30] = 230
        found.append(picture)
    return found


def combed(picture: np.ndarray) -> float:
    """How much more a row of the moving half differs from the next one than from the one after it."""
    rows = picture[:, :128].astype(int)
    return float(np.abs(rows[1:] - rows[:-1]).mean() - np.abs(rows[2:] - rows[:-2]).mean())


def test_fields_of_two_moments_are_made_one_and_still_parts_keep_their_lines(tmp_path):
    path = write_video(tmp_path / "fields.mp4", bars(12), TIMES, **INTERLACED)
    frames = [frame for _, frame in decode.pictures(path)]
    woven = [frame.to_ndarray(format="rgb24") for frame in frames]
    seen = list(decode.frames(path, 10.0, decode.timing(path), 0.0, 12))
    assert all(frame.interlaced_frame for frame in frames)
    assert min(combed(picture) for picture in woven) > 5
    assert max(combed(picture) for picture in seen) < 1, "the first and the last, with one neighbour, too"
    for k, (picture, plain) in enumerate(zip(seen, woven, strict=True)):
        off = [np.abs(picture[field::2, :120].astype(int) - plain[field::2, :120]).max() for field in (0, 1)]
        assert min(off) <= 8 < max(off), f"{k}: one field's moment"
        still = np.abs(picture[:, 136:].astype(int) - plain[:, 136:]).mean()
        assert still < 1 or k == 0, f"{k}: what stands still"


def test_neighbour_of_another_size_is_not_asked(tmp_path):
    path = write_video(tmp_path / "fields.mp4", bars(3), TIMES[:3], **INTERLACED)
    small = write_video(tmp_path / "small.mp4", [texture(2, 32, 64)] * 3, TIMES[:3], **INTERLACED)
    _, frame, after = (frame for _, frame in decode.pictures(path))
    other = next(frame for _, frame in decode.pictures(small))
    assert combed(shown.pixels(frame, before=other, after=after)) < 1
    assert np.array_equal(shown.pixels(frame, before=other, after=other), shown.pixels(frame))


@pytest.mark.parametrize("codec", ["libx264", "ffv1"])
def test_progressive_picture_of_square_pixels_has_the_decoders_own_values(tmp_path, codec):
    pictures = [np.roll(texture(3), 5 * k, axis=1) for k in range(12)]
    path = write_video(tmp_path / "plain.mkv", pictures, TIMES, codec=codec)
    plain = [frame.to_ndarray(format="rgb24") for _, frame in decode.pictures(path)]
    seen = list(decode.frames(path, 10.0, decode.timing(path), 0.0, 12))
    assert all(np.array_equal(a, b) for a, b in zip(seen, plain, strict=True))


@pytest.mark.parametrize(
    ("pixel_width", "size"),
    [(2.0, (64, 256)), (64 / 45, (64, 182)), (0.5, (128, 128)), (1.0, (64, 128)), (128 / 117, (64, 128))],
)
def test_pixels_become_square_without_losing_any(tmp_path, pixel_width, size):
    path = write_video(tmp_path / "one.mkv", [texture(4)], [0.0])
    frame = next(frame for _, frame in decode.pictures(path))
    seen = shown.pixels(frame, pixel_width)
    assert seen.shape == (*size, 3)
    if size == (64, 128):
        assert np.array_equal(seen, texture(4))
    else:
        assert abs(seen.mean() - texture(4).mean()) < 1, "the same picture, longer"
        assert np.abs(seen[0, 0].astype(int) - texture(4)[0, 0]).max() < 8
