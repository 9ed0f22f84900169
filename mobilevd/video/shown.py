"""A decoded picture as people see it: its fields made one moment, its pixels square, turned as the file asks.

**Keeps** a progressive picture of square pixels has the decoder's own values (``tests/video/test_shown.py``).
**Axes** H W 3 uint8.
"""

from fractions import Fraction

import av
import numpy as np
from PIL import Image

SQUARE = 0.1  # so little off is left alone: 4:3 of television (10:11, 12:11), and a video of the pinned sample set
Frame = av.VideoFrame


def pixels(
    frame: Frame, pixel_width: float = 1.0, before: Frame | None = None, after: Frame | None = None
) -> np.ndarray:
    """The picture of ``frame``, H W 3 uint8; ``pixel_width``: of a pixel of height 1.

    Its neighbours, where there are any, tell what moves in an interlaced one.
    """
    whole = _of_one_moment(frame, before, after) if frame.interlaced_frame else frame
    picture = _squared(whole.to_ndarray(format="rgb24"), pixel_width)
    return np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90) % 4))


def _of_one_moment(frame: Frame, before: Frame | None, after: Frame | None) -> Frame:
    """``frame`` at the moment of its first field, by libavfilter's bwdif: still parts keep every line."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000))
    end = graph.add("buffersink")
    graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), end).configure()
    near = [picture for picture in (before, frame, after) if picture is not None and _alike(picture, frame)]
    for picture in (*near, None):
        source.push(picture)
    return [end.pull() for _ in near][near.index(frame)]


def _alike(a: Frame, b: Frame) -> bool:
    return (a.width, a.height, a.format.name) == (b.width, b.height, b.format.name)


def _squared(picture: np.ndarray, pixel_width: float) -> np.ndarray:
    """Stretched along the side on which the pixels are the longer ones, so that no detail is lost."""
    height, width = picture.shape[:2]
    if abs(pixel_width - 1) <= SQUARE:
        return picture
    size = (round(width * max(1.0, pixel_width)), round(height * max(1.0, 1 / pixel_width)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
