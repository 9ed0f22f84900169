"""Prepared clips as batches, in an order and with random numbers that are a function of seed, step and place in it.

**Keeps** every epoch shows each clip once; how a step is cut into parts and shared among processes changes neither
its clips nor their noise (``tests/training/test_data.py``). **Axes** N F C H W, N C H W, tokens N 1 D.
"""

import bisect
import functools
import itertools
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mobilevd.artifacts import shards
from mobilevd.errors import DataError
from mobilevd.shapes import AddedIds, Latents, Tokens
from mobilevd.training import seeds

NAMES = ("latents", "image_latents", "tokens")


class Batch(NamedTuple):
    """Clips ready for the network, float32: scaled latents, the first frame's raw latents, its token, added ids."""

    latents: Latents
    image_latents: Float[Tensor, "B C H W"]
    tokens: Tokens
    ids: AddedIds


class Clips:
    """One split of a prepared dataset, in one file or in shards; only the clips asked for are read from disk."""

    def __init__(self, path: Path, ids: Tensor | None = None):
        """Open ``path``; ``ids`` [N 3] or [1 3] are the clips' added ids. Errors: DataError, tensors missing or odd."""
        self.path = Path(path)
        files = shards(self.path)
        if not files:
            raise DataError("The prepared clips are gone", got=str(path), where="rerun the stage prepare")
        self._shards = [_slices(file) for file in files]
        counts = {name: sum(_counts(shard)[name] for shard in self._shards) for name in NAMES}
        self.ids = torch.zeros(1, 3) if ids is None else ids.float()
        counts["ids"] = counts["latents"] if len(self.ids) == 1 else len(self.ids)
        if len(set(counts.values())) != 1 or not counts["latents"]:
            raise DataError("Prepared clips disagree about their number", got=counts, where=str(path))
        self._ends = list(itertools.accumulate(_counts(shard)["latents"] for shard in self._shards))

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        """(F, C, H, W) of one clip's latents."""
        return tuple(self._shards[0]["latents"].get_shape()[1:])

    def batch(self, indices: list[int], device: torch.device | str = "cpu") -> Batch:
        """The clips at ``indices``, in that order."""
        ids = self.ids.expand(len(self), -1)[indices]
        return Batch(*(t.to(device, non_blocking=True) for t in (*(self._read(n, indices) for n in NAMES), ids)))

    def _read(self, name: str, indices: list[int]) -> Tensor:
        return torch.cat([self._clip(name, range(len(self))[i]).float() for i in indices])

    def _clip(self, name: str, index: int) -> Tensor:
        shard = bisect.bisect_right(self._ends, index)
        first = self._ends[shard - 1] if shard else 0
        return self._shards[shard][name][index - first : index - first + 1]


class Part(NamedTuple):
    """What one process trains on at once: its clips, and a generator for each."""

    batch: Batch
    generators: list[torch.Generator]


class Share(NamedTuple):
    """The share of one process in every step: ``accumulate`` parts of ``batch_size`` clips, beside ``ranks`` others."""

    batch_size: int
    accumulate: int = 1
    rank: int = 0
    ranks: int = 1

    def places(self, part: int) -> range:
        """The places in the step's order that belong to this process's ``part``."""
        first = (self.rank * self.accumulate + part) * self.batch_size
        return range(first, first + self.batch_size)

    @property
    def size(self) -> int:
        """Clips in a step, over all processes."""
        return self.batch_size * self.accumulate * self.ranks


class Feed:
    """The training clips, step by step; with ``workers``, read ahead by processes of their own."""

    def __init__(self, clips: Clips, share: Share, seed: int, device: torch.device | str = "cpu", workers: int = 0):
        self._clips, self._share, self._seed, self._device, self._workers = clips, share, seed, device, workers
        self._indices = functools.partial(indices, len(clips), share, seed)
        self._ahead: Iterator[Batch] | None = None
        self._next = -1
        self.seconds = 0.0  # spent waiting for clips

    def parts(self, step: int) -> Iterator[Part]:
        """The parts of ``step`` (from 0), in order."""
        for part in range(self._share.accumulate):
            began = time.perf_counter()
            batch = self._batch(step * self._share.accumulate + part)
            places = self._share.places(part)
            self.seconds += time.perf_counter() - began
            yield Part(batch, [seeds.generator(self._seed, "step", step, "clip", place) for place in places])

    def _batch(self, index: int) -> Batch:
        if not self._workers:
            return self._clips.batch(self._indices(index), self._device)
        if index != self._next:  # the first, or back to an earlier step
            self._ahead = iter(self._loader(index))
        self._next = index + 1
        return Batch(*(t.to(self._device, non_blocking=True) for t in next(self._ahead)))

    def _loader(self, first: int) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(
            _Read(self._clips.path, self._clips.ids, self._indices),
            sampler=itertools.count(first),
            batch_size=None,
            num_workers=self._workers,
            pin_memory=torch.device(self._device).type == "cuda",
            worker_init_fn=_outlive_sigterm,
        )


class _Read(torch.utils.data.Dataset):
    """Reads parts in a worker's process, which opens the file for itself."""

    def __init__(self, path: Path, ids: Tensor, indices: Callable[[int], list[int]]):
        self._path, self._ids, self._indices, self._clips = path, ids, indices, None

    def __getitem__(self, index: int) -> Batch:
        self._clips = self._clips or Clips(self._path, self._ids)
        return self._clips.batch(self._indices(index))


def indices(count: int, share: Share, seed: int, index: int) -> list[int]:
    """The clips of part number ``index`` over all steps: a fresh permutation of all ``count`` clips every epoch."""
    step, part = divmod(index, share.accumulate)
    places = (step * share.size + place for place in share.places(part))
    return [_shuffled(count, seed, place // count)[place % count] for place in places]


def stacked(rows: list) -> Any:
    """Tensors, or (nested) named tuples of them, with one clip each, as one with all of them."""
    if isinstance(rows[0], Tensor):
        return torch.cat(rows)
    return type(rows[0])(*(stacked(list(column)) for column in zip(*rows, strict=True)))


@functools.lru_cache(maxsize=4)
def _shuffled(count: int, seed: int, epoch: int) -> list[int]:
    return torch.randperm(count, generator=seeds.generator(seed, "order", epoch)).tolist()


def _outlive_sigterm(worker: int) -> None:
    """A preempted process group is told as one; the training still needs its clips to end the step."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _slices(path: Path) -> dict[str, Any]:
    try:
        file = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise DataError("The prepared clips cannot be read", got=str(error), where=str(path)) from None
    if missing := set(NAMES) - set(file.keys()):
        raise DataError("Prepared clips lack a tensor", got=", ".join(sorted(missing)), where=str(path))
    return {name: file.get_slice(name) for name in NAMES}


def _counts(slices: dict[str, Any]) -> dict[str, int]:
    return {name: stored.get_shape()[0] for name, stored in slices.items()}
