"""Decoded clips as one safetensors file, written clip by clip, so that a large set never has to fit in memory.

**Keeps** the file is one that safetensors reads, equal to the stacked clips (``tests/video/test_store.py``).
**Axes** ``video`` N F 3 H W uint8.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import UInt8
from safetensors import safe_open
from torch import Tensor

from mobilevd.artifacts import shards
from mobilevd.settings import Clip

HEADER_BYTES = 504  # with the 8 bytes of its length before it, the pixels start at byte 512


class ClipFile:
    """A ``with`` block that appends clips to ``path``; the file is there when the block ends well, else not at all."""

    def __init__(self, path: Path, clip: Clip):
        self.path, self.clip, self.count = Path(path), clip, 0
        self.shape = (clip.frames, 3, clip.height, clip.width)

    def __enter__(self) -> "ClipFile":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._aside = self.path.with_name(self.path.name + ".part")
        self._stream = self._aside.open("wb")
        self._stream.write(bytes(8 + HEADER_BYTES))
        return self

    def append(self, video: UInt8[Tensor, "F 3 H W"]) -> None:
        """Add one clip. Errors: ValueError on another shape."""
        if tuple(video.shape) != self.shape or video.dtype != torch.uint8:
            raise ValueError(f"a clip of {self.shape} uint8 is due, got {tuple(video.shape)} {video.dtype}")
        self._stream.write(video.contiguous().numpy().data)
        self.count += 1

    def __exit__(self, failure, *_) -> None:
        size = self._stream.tell() - 8 - HEADER_BYTES
        header = {"video": {"dtype": "U8", "shape": [self.count, *self.shape], "data_offsets": [0, size]}}
        self._stream.seek(0)
        self._stream.write(HEADER_BYTES.to_bytes(8, "little") + json.dumps(header).encode().ljust(HEADER_BYTES))
        self._stream.close()
        self._aside.unlink() if failure else self._aside.replace(self.path)


def clips(path: Path) -> Iterator[UInt8[Tensor, "F 3 H W"]]:
    """Every clip of a file, or of its shards, one in memory at a time."""
    for file in shards(path):
        with safe_open(file, framework="pt") as stored:
            video = stored.get_slice("video")
            for index in range(video.get_shape()[0]):
                yield video[index]
