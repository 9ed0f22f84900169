"""A photograph is read as people see it: turned as EXIF asks, and with sixteen bits of grey scaled, not cut off."""

import struct
import warnings

import numpy as np
import pytest
from PIL import Image

from mobilevd.video import photo
from mobilevd.video.decode import Reason, UnusableError


def test_sixteen_bits_of_grey_are_scaled_to_eight(tmp_path):
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    found = np.asarray(photo.upright(tmp_path / "ramp.png"))
    assert found.shape == (64, 64, 3)
    assert np.abs(found[..., 0].astype(int) - ramp / 257).max() <= 1


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_thirty_two_bits_a_pixel_are_refused(tmp_path, kind):
    Image.fromarray(np.ones((8, 8), kind)).save(tmp_path / "deep.tiff")
    with pytest.raises(UnusableError, match="8 or 16") as caught:
        photo.upright(tmp_path / "deep.tiff")
    assert caught.value.reason == Reason.UNREADABLE


def test_picture_is_turned_as_its_exif_asks(tmp_path):
    picture = Image.new("RGB", (6, 4), "red")
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(tmp_path / "turned.png", exif=exif)
    assert photo.upright(tmp_path / "turned.png").size == (4, 6)


def odd_exif(tag: int, kind: int, count: int, value: bytes) -> bytes:
    """An EXIF that asks for a quarter turn, with one more entry, whose type is not its tag's."""
    entries = [(0x0112, 3, 1, struct.pack("<HH", 6, 0)), (tag, kind, count, value)]
    packed = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4)


ODD = {
    "struct.error": (0x0100, 2, 4, b"abc\0"),
    "TypeError": (0x011A, 2, 4, b"abc\0"),
    "ValueError": (0x8769, 9, 1, b"\xff\xff\xff\xff"),
    "AttributeError": (0x010E, 11, 1, b"\0\0\xc0\x7f"),
}


@pytest.mark.parametrize("entry", ODD.values(), ids=ODD)
def test_odd_exif_is_damage_of_that_file(tmp_path, entry):
    Image.new("RGB", (16, 8), "red").save(tmp_path / "odd.jpg", exif=odd_exif(*entry))
    with pytest.raises(UnusableError) as caught:
        photo.upright(tmp_path / "odd.jpg")
    assert caught.value.reason == Reason.DAMAGED


def test_too_large_a_photograph_is_told_its_size_and_a_large_one_is_no_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    Image.new("RGB", (1501, 1401)).save(tmp_path / "huge.png")
    Image.new("RGB", (1501, 1301)).save(tmp_path / "large.png")
    with pytest.raises(UnusableError) as caught:
        photo.upright(tmp_path / "huge.png")
    assert (caught.value.reason, caught.value.detail) == (Reason.UNREADABLE, "3 megapixels, at most 2: reduce it")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert photo.upright(tmp_path / "large.png").size == (1501, 1301)
    assert not told


def hidden() -> dict[str, tuple[Image.Image, dict]]:
    """Pictures of which nothing is to be seen: whatever colour lies there is hidden."""
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([255, 0, 0] * 256)
    return {
        "rgba.png": (Image.new("RGBA", (8, 8), (255, 0, 0, 0)), {}),
        "rgba.tif": (Image.new("RGBA", (8, 8), (255, 0, 0, 0)), {}),
        "rgba.webp": (Image.new("RGBA", (8, 8), (255, 0, 0, 0)), {"lossless": True, "exact": True}),
        "la.png": (Image.new("LA", (8, 8), (20, 0)), {}),
        "palette.png": (palette, {"transparency": 0}),
        "keyed.png": (Image.new("RGB", (8, 8), (1, 2, 3)), {"transparency": (1, 2, 3)}),
        "grey.png": (Image.new("L", (8, 8), 7), {"transparency": 7}),
    }


@pytest.mark.parametrize("name", hidden())
def test_what_is_transparent_is_white(tmp_path, name):
    picture, options = hidden()[name]
    picture.save(tmp_path / name, **options)
    assert photo.upright(tmp_path / name).getcolors() == [(64, (255, 255, 255))]


def test_half_transparent_is_half_white_and_opaque_pixels_keep_their_bits(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "opaque.png")
    assert np.array_equal(np.asarray(photo.upright(tmp_path / "opaque.png")), pixels[..., :3])
    pixels[..., 3] = 128
    Image.fromarray(pixels).save(tmp_path / "half.png")
    expected = 255 + (pixels[..., :3].astype(float) - 255) * 128 / 255
    assert np.abs(np.asarray(photo.upright(tmp_path / "half.png")) - expected).max() <= 1
