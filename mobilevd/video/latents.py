"""Encoded clips, computed once: one small safetensors file per clip, named by everything that changes its content.

**Keeps** what is read back equals what was encoded; a damaged file is noticed, said and computed again
(``tests/video/test_latents.py``).
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

log = logging.getLogger(__name__)
FORMAT = "1"
Encode = Callable[[UInt8[Tensor, "F 3 H W"]], dict[str, Tensor]]


class Encoded(NamedTuple):
    """The stacked tensors (N first), and how many clips came from the cache, were computed, or were found damaged."""

    tensors: dict[str, Tensor]
    reused: int
    computed: int
    damaged: int


def key(pixels_sha256: str, encoder_sha256: str) -> str:
    """The cache's name of one encoded clip.

    The clip's pixels already depend on the video's bytes, size, fps, frame count and window; ``encoder_sha256`` stands
    for the autoencoder and the image encoder.
    """
    return hashlib.sha256(f"{FORMAT}:{pixels_sha256}:{encoder_sha256}".encode()).hexdigest()


def encoded(clips: Iterable[UInt8[Tensor, "F 3 H W"]], keys: Iterable[str], encode: Encode, cache: Path) -> Encoded:
    """Encode every clip whose key the ``cache`` folder does not hold; read the others. One clip in memory at a time."""
    stacks: dict[str, list[Tensor]] = {}
    reused = computed = damaged = 0
    for clip, name in zip(clips, keys, strict=True):
        path = Path(cache) / name[:2] / f"{name}.safetensors"
        tensors, there = _read(path), path.is_file()
        if tensors is None:
            tensors = {part: tensor.contiguous() for part, tensor in encode(clip).items()}
            _write(path, tensors)
            computed, damaged = computed + 1, damaged + there
        else:
            reused += 1
        for part, tensor in tensors.items():
            stacks.setdefault(part, []).append(tensor)
    return Encoded({part: torch.stack(stack) for part, stack in stacks.items()}, reused, computed, damaged)


def _read(path: Path) -> dict[str, Tensor] | None:
    if not path.is_file():
        return None
    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as stored:
            whole = (stored.metadata() or {}).get("sha256") == _digest(tensors)
    except SafetensorError:
        whole = False
    if not whole:
        log.warning("%s in the latents cache is damaged; it is computed again", path.name)
    return tensors if whole else None


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    save_file(tensors, aside, metadata={"sha256": _digest(tensors)})
    aside.replace(path)


def _digest(tensors: dict[str, Tensor]) -> str:
    content = hashlib.sha256()
    for name in sorted(tensors):
        content.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}\n".encode())
        content.update(tensors[name].contiguous().view(torch.uint8).numpy().data)
    return content.hexdigest()
