"""Videos made on the spot: lossless, with the timestamps a test asks for, each frame of one grey level."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image


def texture(seed: int, height: int = 64, width: int = 128) -> np.ndarray:
    """Smooth random colour, H W 3 uint8."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def write_video(path: Path, pictures, times_s, *, codec: str = "ffv1", base: Fraction = Fraction(1, 1000), **options):
    """Write H W 3 uint8 ``pictures`` at ``times_s`` seconds; lossless in colour unless a codec says otherwise."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options.get("options", {}))
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = options.get("pix_fmt", "bgr0" if codec == "ffv1" else "yuv420p")
        stream.time_base = stream.codec_context.time_base = base
        for picture, at_s in zip(pictures, times_s, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = round(at_s / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def greys(count: int, height: int = 16, width: int = 32) -> list[np.ndarray]:
    """Picture k is all of level k."""
    return [np.full((height, width, 3), k, np.uint8) for k in range(count)]


def moving(path: Path, seed: int, seconds: float = 2.0, rate: float = 15.0, size: tuple[int, int] = (64, 128)) -> Path:
    """A texture that slides by four pixels a frame."""
    picture = texture(seed, *size)
    count = round(seconds * rate) + 1
    return write_video(path, [np.roll(picture, 4 * k, axis=1) for k in range(count)], [k / rate for k in range(count)])


def sound(path: Path) -> Path:
    """Half a second of silence and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
