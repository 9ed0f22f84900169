"""A photograph of any size, upright and in colour, and how it is fitted to a clip; needs Pillow alone.

**Keeps** the picture as people see it, whatever its EXIF rotation (``tests/video/test_photo.py``).
"""

from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from mobilevd.video.decode import Reason, UnusableError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def upright(path: Path) -> Image.Image:
    """The photograph at its own size, turned as its EXIF asks, in RGB. Errors: UnusableError."""
    if path.stat().st_size == 0:
        raise UnusableError(Reason.EMPTY)
    try:
        with Image.open(path) as picture:
            return _eight_bits(ImageOps.exif_transpose(picture)).convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UnusableError(Reason.NOT_PHOTO) from error
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError on a broken PNG chunk
        raise UnusableError(Reason.DAMAGED, str(error).lower()) from error


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Sixteen bits of grey are scaled to eight, which Pillow would cut off; deeper ones have no known white."""
    if picture.mode.startswith("I;16"):
        return picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if picture.mode in ("I", "F"):
        raise UnusableError(Reason.UNREADABLE, "32 bits a pixel: save it with 8 or 16")
    return picture


def fit(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Resize to cover width x height, antialiased, and cut the centre out; integer arithmetic, the same everywhere."""
    scale = max(width / picture.width, height / picture.height)
    box_width, box_height = min(picture.width, width / scale), min(picture.height, height / scale)
    left, top = (picture.width - box_width) / 2, (picture.height - box_height) / 2
    box = (left, top, left + box_width, top + box_height)
    return picture.resize((width, height), Image.Resampling.BICUBIC, box=box)
