"""A safetensors file, written piece by piece: its digest is taken on the way, and nothing is copied or read again.

**Keeps** the same bytes as the library's own file (``tests/training/test_stream.py``). **Changes** the system is told
to write at once and to let go what is written: pages of its own for a whole checkpoint take longer to get than to fill.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

PIECE = 1 << 23
DTYPES = {  # in the library's order
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def save(tensors: dict[str, Tensor], path: Path) -> str:
    """Write ``path``; returns its sha256. Errors: OSError, for a full disk, say."""
    digest = hashlib.sha256()
    with path.open("wb", buffering=0) as file, ThreadPoolExecutor(1) as beside:
        for piece in _pieces(tensors):
            digesting = beside.submit(digest.update, piece)  # neither holds the interpreter
            while piece:
                piece = piece[file.write(piece) :]
                _let_go(file.fileno())
            digesting.result()
    return digest.hexdigest()


def _pieces(tensors: dict[str, Tensor]) -> Iterator[memoryview]:
    """The file's bytes in order: header, then tensors, those of wide numbers first; small ones together."""
    kinds = list(DTYPES)
    order = sorted(tensors, key=lambda name: (kinds.index(tensors[name].dtype), name))
    small = bytearray(_header({name: tensors[name] for name in order}))
    for name in order:
        own = memoryview(tensors[name].detach().cpu().reshape(-1).view(torch.uint8).numpy())
        if len(small) + len(own) <= PIECE:
            small += own
            continue
        yield memoryview(small)
        small = bytearray()
        yield from (own[start : start + PIECE] for start in range(0, len(own), PIECE))
    yield memoryview(small)


def _header(tensors: dict[str, Tensor]) -> bytes:
    told, end = {}, 0
    for name, t in tensors.items():
        start, end = end, end + t.nbytes
        told[name] = {"dtype": DTYPES[t.dtype], "shape": list(t.shape), "data_offsets": [start, end]}
    text = json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _let_go(handle: int) -> None:
    """Have what is in the file written, without waiting, and what is written let go."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
