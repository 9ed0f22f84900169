"""Prepared clips as batches, in an order that is a function of the seed and the step.

**Keeps** every epoch shows each clip once, whatever the batch size (``tests/training/test_data.py``) · **Axes**
latents N F C H W, image latents N C H W, tokens N 1 D.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mobilevd.errors import DataError
from mobilevd.shapes import Latents, Tokens
from mobilevd.training import seeds

NAMES = ("latents", "image_latents", "tokens")


class Batch(NamedTuple):
    """Clips ready for the network, float32: scaled latents, the first frame's raw latents and its token."""

    latents: Latents
    image_latents: Float[Tensor, "B C H W"]
    tokens: Tokens


class Clips:
    """One split of a prepared dataset; only the clips that are asked for are read from disk."""

    def __init__(self, path: Path, device: torch.device | str = "cpu"):
        """Open ``path``. Errors: DataError when a tensor is missing or the counts differ."""
        self.path, self.device = Path(path), device
        if not self.path.is_file():
            raise DataError("The prepared clips are gone", got=str(path), where="rerun the stage prepare")
        self._file = _open(self.path)
        if missing := set(NAMES) - set(self._file.keys()):
            raise DataError("Prepared clips lack a tensor", got=", ".join(sorted(missing)), where=str(path))
        self._slices = {name: self._file.get_slice(name) for name in NAMES}
        counts = {name: self._slices[name].get_shape()[0] for name in NAMES}
        if len(set(counts.values())) != 1 or not counts["latents"]:
            raise DataError("Prepared clips disagree about their number", got=counts, where=str(path))

    def __len__(self) -> int:
        return self._slices["latents"].get_shape()[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """(F, C, H, W) of one clip's latents."""
        return tuple(self._slices["latents"].get_shape()[1:])

    def batch(self, indices: list[int]) -> Batch:
        """The clips at ``indices``, in that order."""
        return Batch(*(self._read(name, indices) for name in NAMES))

    def _read(self, name: str, indices: list[int]) -> Tensor:
        rows = [self._slices[name][i : i + 1] for i in indices]
        return torch.cat(rows).to(self.device, torch.float32)


def order(count: int, batch_size: int, step: int, seed: int, rank: int = 0, ranks: int = 1) -> list[int]:
    """Indices of the batch of ``rank`` at ``step`` (from 0): a fresh permutation of all clips every epoch."""
    first = (step * ranks + rank) * batch_size
    return [
        _shuffled(count, seed, position // count)[position % count] for position in range(first, first + batch_size)
    ]


def _shuffled(count: int, seed: int, epoch: int) -> list[int]:
    return torch.randperm(count, generator=seeds.generator(seed, "order", epoch)).tolist()


def _open(path: Path):
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise DataError("The prepared clips cannot be read", got=str(error), where=str(path)) from None
