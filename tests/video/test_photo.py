"""A photograph is read as people see it: turned as EXIF asks, and with sixteen bits of grey scaled, not cut off."""

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
