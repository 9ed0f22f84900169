"""A photograph of any size, upright and in colour, and how it is fitted to a clip; needs Pillow alone.

**Keeps** the picture as people see it: turned as its EXIF asks, and white where it is transparent
(``tests/video/test_photo.py``).
"""

import math
import re
import struct
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from mobilevd.video.decode import Reason, UnusableError, check_link

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
# what Pillow raises on damage: SyntaxError on a broken PNG chunk, the others on an odd EXIF
BROKEN = (OSError, SyntaxError, struct.error, TypeError, ValueError, AttributeError, LookupError, ArithmeticError)


def upright(path: Path) -> Image.Image:
    """The photograph at its own size, turned as its EXIF asks, on white, in RGB. Errors: UnusableError."""
    check_link(path)
    if path.stat().st_size == 0:
        raise UnusableError(Reason.EMPTY)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large is no bomb: the error says where
            with Image.open(path) as picture:
                return on_white(_eight_bits(ImageOps.exif_transpose(picture)))
    except Image.DecompressionBombError as error:
        raise UnusableError(Reason.UNREADABLE, _too_large(error)) from error
    except UnidentifiedImageError as error:
        raise UnusableError(Reason.NOT_PHOTO) from error
    except BROKEN as error:
        raise UnusableError(Reason.DAMAGED, str(error).lower()) from error


def _too_large(error: Image.DecompressionBombError) -> str:
    """Pillow names the picture's pixels, then its limit."""
    found, limit = [int(number) / 1e6 for number in re.findall(r"\d+", str(error))][:2]
    return f"{math.ceil(found)} megapixels, at most {math.floor(limit)}: reduce it"


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Sixteen bits of grey are scaled to eight, which Pillow would cut off; deeper ones have no known white."""
    if picture.mode.startswith("I;16"):
        return picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if picture.mode in ("I", "F"):
        raise UnusableError(Reason.UNREADABLE, "32 bits a pixel: save it with 8 or 16")
    return picture


def on_white(picture: Image.Image) -> Image.Image:
    """In RGB; what is transparent would show whatever colour lies hidden there."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    over = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")


def fit(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Resize to cover width x height, antialiased, and cut the centre out; integer arithmetic, the same everywhere."""
    scale = max(width / picture.width, height / picture.height)
    box_width, box_height = min(picture.width, width / scale), min(picture.height, height / scale)
    left, top = (picture.width - box_width) / 2, (picture.height - box_height) / 2
    box = (left, top, left + box_width, top + box_height)
    return picture.resize((width, height), Image.Resampling.BICUBIC, box=box)
