"""Frames of a video at a steady rate, taken by timestamp, and a reason for every file that cannot give them.

**Keeps** the frame at tick k is the last one at or before k / fps (``test_decode.py``); three frames in memory.
**Axes** H W 3 uint8 per frame, as people see it: see ``shown.py``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import av
import numpy as np

from mobilevd.video import shown

SEEK_BEYOND_S = 5.0
ROUNDING_S = 1e-3  # timestamps in milliseconds lie up to half a millisecond beside the true time
HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics, ITU-T H.273
TO_SDR = "zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable,zscale=t=bt709:m=bt709,format=yuv420p"
WIDEST = 4.0  # pixels wider or narrower than by this are a mistake of the file
STILLS = ("image2", "tty")  # single pictures, and text that ffmpeg would draw as a video
MAGIC = (
    (4, b"ftyp"),
    (4, b"moov"),
    (0, b"\x1aE\xdf\xa3"),
    (0, b"RIFF"),
    (0, b"OggS"),
    (0, b"FLV"),
    (0, b"\0\0\x01\xba"),
)


class Reason(StrEnum):
    """Why a file, or a window of it, is not used."""

    EMPTY = "zero bytes"
    NOT_VIDEO = "not a video"
    NOT_PHOTO = "not a photograph"
    AUDIO_ONLY = "audio only"
    DAMAGED = "truncated or corrupt"
    NO_TIME = "no timestamps"
    TOO_SHORT = "too short"
    UNREADABLE = "cannot be read"
    STILL = "no motion"
    HDR = "high dynamic range"
    LINK = "a link without a file"
    CRASHED = "crashed or hung the decoder"


class UnusableError(Exception):
    """A file that gives no clips: ``reason`` from the closed list, ``detail`` for a person."""

    def __init__(self, reason: Reason, detail: str = ""):
        super().__init__(f"{reason}{f' ({detail})' if detail else ''}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Timing:
    """When a video's pictures begin and end, in seconds of its own clock, and how wide a pixel of height 1 is."""

    first_s: float
    last_s: float
    pixel_width: float = 1.0

    @property
    def length_s(self) -> float:
        """Seconds from the first picture to the last."""
        return self.last_s - self.first_s


def timing(path: Path) -> Timing:
    """Read the timestamps of every packet and look at the first picture. Errors: UnusableError."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        base = stream.time_base
        times = [p.dts if p.pts is None else p.pts for p in _packets(container, stream)]
        known = [t for t in times if t is not None]
        declared_s, pixel_width = _declared(container, stream), float(stream.sample_aspect_ratio or 1)
    if not times:
        raise UnusableError(Reason.DAMAGED, "no pictures in it")
    if not known or base is None:
        raise UnusableError(Reason.NO_TIME)
    first_s, picture = next(pictures(path), (None, None))
    if first_s is None:
        raise UnusableError(Reason.DAMAGED, "no picture can be decoded")
    _check_look(picture, pixel_width)
    found = Timing(first_s, float(max(known) * base), pixel_width)
    there_s = max(found.last_s, found.length_s)  # some containers count from zero, some from the first picture
    if declared_s is not None and declared_s - there_s > max(1.0, 0.05 * declared_s):
        raise UnusableError(Reason.DAMAGED, f"ends after {there_s:.1f} s of {declared_s:.1f} s")
    return found


def frames(path: Path, fps: float, timing: Timing, start_s: float, count: int) -> Iterator[np.ndarray]:
    """Yield ``count`` pictures H W 3 uint8, shown at start_s + k / fps after the first one of the file.

    Errors: UnusableError when the file ends, by its own ``timing``, or breaks before the last of them.
    """
    ticks = iter([timing.first_s + start_s + k / fps for k in range(count)])
    tick, before, held, held_s = next(ticks), None, None, 0.0
    for at_s, frame in pictures(path, from_s=tick):
        while held is not None and tick is not None and at_s > tick + ROUNDING_S:
            yield shown.pixels(held, timing.pixel_width, before, frame)
            tick = next(ticks, None)
        if tick is None:
            return
        before, held, held_s = held, frame, at_s
    while held is not None and tick is not None and tick <= held_s + 1 / fps:
        yield shown.pixels(held, timing.pixel_width, before, None)
        tick = next(ticks, None)
    if tick is not None:
        reason = Reason.TOO_SHORT if tick > timing.last_s + ROUNDING_S else Reason.DAMAGED
        raise UnusableError(reason, f"no picture at {tick - timing.first_s:.2f} s")


def pictures(path: Path, from_s: float | None = None) -> Iterator[tuple[float, av.VideoFrame]]:
    """Yield (seconds, picture) in display order with strictly increasing seconds, from at or before ``from_s``.

    A file whose clock runs backwards is read by its decoding clock, and a picture that comes no later than the one
    before it is passed over. Errors: UnusableError when the file is damaged.
    """
    if from_s is not None and from_s > SEEK_BEYOND_S:
        jumped = _decoded(path, from_s)
        start = next(jumped, None)
        if start is not None and start[0] <= from_s + ROUNDING_S:
            yield start
            yield from jumped
            return
    yield from _decoded(path, None)


def _decoded(path: Path, seek_s: float | None) -> Iterator[tuple[float, av.VideoFrame]]:
    with _opened(path) as container:
        stream = container.streams.video[0]
        if seek_s is not None:
            _seek(container, stream, seek_s)
        clock, last_s = _Clock(), None
        try:
            for frame in container.decode(stream):
                ticks = clock.read(frame.pts, frame.dts)
                if ticks is None or frame.time_base is None:
                    continue
                at_s = float(ticks * frame.time_base)
                if last_s is None or at_s > last_s:
                    last_s = at_s
                    yield at_s, frame
        except av.FFmpegError as error:
            after = "before the first picture" if last_s is None else f"after {last_s:.2f} s"
            raise UnusableError(Reason.DAMAGED, f"{_said(error)} {after}") from error


class _Clock:
    """Presentation times, or decoding times once those proved steadier (old AVI files swap the former)."""

    def __init__(self):
        self.last_pts = self.last_dts = None
        self.faulty_pts = self.faulty_dts = 0

    def read(self, pts: int | None, dts: int | None) -> int | None:
        """Take one frame's stamps; the stamp to go by (None: it has none), the presentation's unless that is faulty."""
        if pts is not None:
            self.faulty_pts += self.last_pts is not None and pts <= self.last_pts
            self.last_pts = pts
        if dts is not None:
            self.faulty_dts += self.last_dts is not None and dts <= self.last_dts
            self.last_dts = dts
        steady = pts is not None and (dts is None or self.faulty_pts <= self.faulty_dts)
        return pts if steady else dts


def _seek(container, stream, seek_s: float) -> None:
    try:
        container.seek(int(seek_s / stream.time_base), stream=stream, backward=True, any_frame=False)
    except av.FFmpegError:
        container.seek(0)  # a container without an index is read from its beginning


def _check_look(picture: av.VideoFrame, pixel_width: float) -> None:
    if kind := HDR.get(int(picture.color_trc)):
        raise UnusableError(Reason.HDR, f"{kind}; make it SDR first: ffmpeg -i IN -vf {TO_SDR} OUT")
    if not 1 / WIDEST <= pixel_width <= WIDEST:
        raise UnusableError(Reason.UNREADABLE, f"its pixels are said to be {pixel_width:.3g} times as wide as high")


def _declared(container, stream) -> float | None:
    """How long the file says its pictures last; nothing when it says so of picture and sound together only."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1 and container.duration
    return container.duration / av.time_base if alone else None


def _packets(container, stream) -> Iterator[av.Packet]:
    try:
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard:
                yield packet
    except av.FFmpegError as error:
        raise UnusableError(Reason.DAMAGED, _said(error)) from error


def check_link(path: Path) -> None:
    """Errors: UnusableError when ``path`` is a link to a folder, or to nothing."""
    if path.is_symlink() and not path.is_file():
        what = "a folder, of which the files can be linked" if path.is_dir() else "nothing"
        raise UnusableError(Reason.LINK, f"to {what}: {path.readlink()}")


def _opened(path: Path):
    """An open container that holds at least one real video stream."""
    check_link(path)
    if path.stat().st_size == 0:
        raise UnusableError(Reason.EMPTY)
    try:
        container = av.open(str(path), metadata_errors="ignore")
    except OSError as error:
        if isinstance(error, av.FFmpegError):
            raise _unopened(path, error) from error
        raise UnusableError(Reason.UNREADABLE, error.strerror or "") from error
    except av.FFmpegError as error:
        raise _unopened(path, error) from error
    if not _moving(container):
        audio = bool(container.streams.audio)
        container.close()
        raise UnusableError(Reason.AUDIO_ONLY if audio else Reason.NOT_VIDEO)
    return container


def _moving(container) -> bool:
    """Whether there is a video stream that is not a cover picture or a lone image."""
    if not container.streams.video or container.format.name in STILLS or container.format.name.endswith("_pipe"):
        return False
    return not container.streams.video[0].disposition & av.stream.Disposition.attached_pic


def _unopened(path: Path, error: av.FFmpegError) -> UnusableError:
    if isinstance(error, PermissionError):
        return UnusableError(Reason.UNREADABLE, "no permission")
    with path.open("rb") as stream:
        head = stream.read(16)
    is_container = any(head[at : at + len(magic)] == magic for at, magic in MAGIC)
    return UnusableError(Reason.DAMAGED if is_container else Reason.NOT_VIDEO, _said(error))


def _said(error: av.FFmpegError) -> str:
    return (error.strerror or type(error).__name__).lower()
