"""One checkpoint for all processes: the first one chooses it; to a machine that does not have it, its files are sent.

**Keeps** machines without a common disk go on, roll back and end with the best together, and none waits for one that
found nothing (``tests/training/test_processes.py``).
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from mobilevd.artifacts import MANIFEST, file_sha256, verify
from mobilevd.errors import IntegrityError, MobileVDError
from mobilevd.training.checkpoints import ASIDE, Checkpoint, Checkpoints
from mobilevd.training.engine import Engine

PIECE = 1 << 26  # bytes sent at once
Find = Callable[[], Checkpoint | None]


def agreed(checkpoints: Checkpoints, engine: Engine, find: Find) -> Checkpoint | None:
    """What ``find`` gives the first process, read by all of them. Errors: what it raises there, in all of them."""
    if engine.ranks == 1:
        return find()
    found, error = _tried(find) if engine.main else (None, None)
    problem, told = engine.tell((error and error.args[0], found and (found.folder.name, _digest(found.folder))))
    if problem:
        raise error or IntegrityError("The first process cannot go on", got=problem)
    if told is None:
        return None
    if engine.any(checkpoints.seen(*told) is None):
        _send(checkpoints, engine, found, *told)
    return found or checkpoints.read(checkpoints.seen(*told))


def _tried(find: Find) -> tuple[Checkpoint | None, MobileVDError | None]:
    try:
        return find(), None
    except MobileVDError as error:
        return None, error


def _digest(folder: Path) -> str:
    return file_sha256(folder / MANIFEST)


def _send(checkpoints: Checkpoints, engine: Engine, found: Checkpoint | None, name: str, digest: str) -> None:
    """The first process reads the files, one process of each machine that lacks them writes them."""
    sizes = engine.tell(found and {path.name: path.stat().st_size for path in sorted(found.folder.iterdir())})
    lacking = engine.leads_machine and checkpoints.seen(name, digest) is None
    final = checkpoints.folder.resolve() / name
    aside = final.with_suffix(ASIDE)
    if lacking:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    for file, size in sizes.items():
        pieces = _pieces(engine, found and found.folder / file, size)
        _write(aside / file, pieces) if lacking else [None for _ in pieces]
    if lacking:
        verify(aside)
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
    if engine.any(checkpoints.seen(name, digest) is None):
        raise IntegrityError("A checkpoint did not reach all machines", got=name, where=str(checkpoints.folder))


def _pieces(engine: Engine, path: Path | None, size: int) -> Iterator[Tensor]:
    """The bytes of a file of the first process, piece by piece, in every process."""
    for start in range(0, size, PIECE):
        piece = torch.empty(min(PIECE, size - start), dtype=torch.uint8)
        if path is not None:
            with path.open("rb") as file:
                file.seek(start)
                file.readinto(piece.numpy())
        yield engine.spread(piece)


def _write(path: Path, pieces: Iterator[Tensor]) -> None:
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece.numpy())
