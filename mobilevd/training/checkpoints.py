"""Crash-safe training checkpoints: a folder per step, written aside, sealed with digests, then renamed.

**Keeps** a kill at any moment and a full disk leave the newest whole checkpoint readable; no training continues from
another training's checkpoint, or starts afresh where a damaged one lies (``tests/training/test_checkpoints.py``).
"""

import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from safetensors.torch import load_file
from torch import Tensor

from mobilevd.artifacts import MANIFEST, file_sha256, seal, verify, write_json
from mobilevd.errors import IntegrityError, MobileVDError, RecipeError
from mobilevd.training import stream

STATE = "state.json"
ASIDE, FORMER = ".part", ".former"  # of a step: while it is written; what it replaces, until it has its name


class NotWrittenError(MobileVDError):
    """A checkpoint that could not be written whole; those before it are as they were."""


class About(BaseModel):
    """The plain values of a checkpoint: ``score`` is lower for better weights, ``healthy``: no alarm was on."""

    step: int
    fingerprint: str
    score: float | None
    healthy: bool
    state: dict[str, Any]


class Checkpoint(NamedTuple):
    """What one checkpoint holds: the number of steps done, tensors by file and name, and plain values."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    folder: Path


class Checkpoints:
    """The checkpoints of one training, told from others by ``fingerprint`` (recipe, data and parents)."""

    def __init__(
        self, folder: Path, fingerprint: str, keep_last: int = 2, keep_best: bool = True, resume: Path | None = None
    ):
        """``resume``: checkpoints from elsewhere to go on from while there are none here. Errors: RecipeError."""
        self.folder, self.fingerprint = Path(folder), fingerprint
        self._keep_last, self._keep_best, self._resume = keep_last, keep_best, resume
        self.passed_over: list[str] = []
        if resume is not None:
            check_resume(resume)

    def save(
        self,
        step: int,
        tensors: dict[str, dict[str, Tensor]],
        state: dict[str, Any],
        score: float | None = None,
        healthy: bool = True,
    ) -> Path:
        """Write a checkpoint whole or not at all, then drop the old ones: all but the last, best and last healthy.

        ``score``: lower is better. Errors: NotWrittenError, for a full disk, say.
        """
        final = self.folder / f"step-{step:08d}"
        aside, former = final.with_suffix(ASIDE), final.with_suffix(FORMER)
        shutil.rmtree(aside, ignore_errors=True)
        about = About(step=step, fingerprint=self.fingerprint, score=score, healthy=healthy, state=state)
        try:
            _write(aside, tensors, about)
            if final.is_dir():  # this step again, after a roll-back to it
                shutil.rmtree(former, ignore_errors=True)
                final.rename(former)
            aside.rename(final)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            allowed = f"room on the disk; {len(_steps(self.folder))} older ones are kept"
            raise NotWrittenError(
                f"The checkpoint of step {step} could not be written", got=str(error), allowed=allowed, where=str(aside)
            ) from None
        self._drop_old()
        return final

    def newest(self, healthy: bool = False) -> Checkpoint | None:
        """The newest intact checkpoint (``healthy``: among those saved without an alarm), or None when none was saved.

        Damaged ones are named in ``passed_over``. Errors: IntegrityError when all are damaged, or when it belongs to
        another training.
        """
        folders = self._folders()
        for folder in reversed(folders):
            if healthy and (about := _about(folder)) is not None and not about.healthy:
                continue
            if (damage := _damage(folder)) is None:
                return self.read(folder)
            self.passed_over.append(f"{folder.name}: {damage}")
        if folders and not healthy:
            raise IntegrityError(
                "No checkpoint of this training is intact",
                got="; ".join(self.passed_over),
                where=f"remove {folders[0].parent} to start anew",
            )
        return None

    def best(self) -> Checkpoint | None:
        """The intact checkpoint with the lowest score among those saved without an alarm, or None."""
        scored = _scored({f: about for f in self._folders() if (about := _about(f)) is not None})
        intact = (f for f in sorted(scored, key=scored.get) if _damage(f) is None)
        return self.read(found) if (found := next(intact, None)) else None

    def seen(self, name: str, digest: str) -> Path | None:
        """Where the checkpoint ``name`` lies whose manifest has ``digest``, on this machine; None if it does not."""
        places = [place / name for place in (self.folder, self._resume) if place is not None]
        return next((p for p in places if (p / MANIFEST).is_file() and file_sha256(p / MANIFEST) == digest), None)

    def drop_after(self, step: int) -> None:
        """Remove those of later steps: the training went back, and another start would go on from them."""
        for folder in sorted(self.folder.glob("step-*"), reverse=True):
            if int(folder.stem.removeprefix("step-")) > step:
                shutil.rmtree(folder)

    def clear(self) -> None:
        """Remove them all, once the training's result is safe; those that it was resumed from stay."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _folders(self) -> list[Path]:
        return _steps(self.folder) or ([] if self._resume is None else _steps(self._resume))

    def _drop_old(self) -> None:
        folders = _steps(self.folder)
        kept = set(folders[-self._keep_last :])
        abouts = {folder: about for folder in folders if (about := _about(folder)) is not None}
        kept |= set([f for f, about in abouts.items() if about.healthy][-1:])
        scored = _scored(abouts)
        kept |= {min(scored, key=scored.get)} if scored and self._keep_best else set()
        _on_disk(folders[-self._keep_last :][0])
        for old in set(self.folder.glob("step-*")) - kept:  # what a kill left behind, too
            shutil.rmtree(old)

    def read(self, folder: Path) -> Checkpoint:
        """What lies in ``folder``, whose digests were checked. Errors: IntegrityError, it is of another training."""
        about = _about(folder)
        if about.fingerprint != self.fingerprint:
            raise IntegrityError(
                "The checkpoint belongs to another training",
                got=about.fingerprint,
                allowed=self.fingerprint,
                where=f"remove {folder.parent} to start anew",
            )
        tensors = {path.stem: load_file(path) for path in folder.glob("*.safetensors")}
        return Checkpoint(about.step, tensors, about.state, folder)


def check_resume(folder: Path) -> None:
    """Errors: RecipeError when ``folder`` is not there or holds no checkpoint: that is never a fresh start."""
    if not _steps(folder):
        got = f"{folder} ({'no checkpoint in it' if Path(folder).is_dir() else 'no such folder'})"
        raise RecipeError("There is nothing to resume from", got=got, allowed="step-… folders", where="training.resume")


def _write(aside: Path, tensors: dict[str, dict[str, Tensor]], about: About) -> None:
    aside.mkdir(parents=True)
    files = {f"{name}.safetensors": named for name, named in tensors.items()}
    digests = {file: stream.save(named, aside / file) for file, named in files.items()}
    write_json(aside / STATE, about.model_dump())
    seal(aside, digests)


def _on_disk(folder: Path) -> None:
    """Wait until ``folder`` would outlive a power cut; of one that was written long ago, no wait at all."""
    for path in (*folder.iterdir(), folder, folder.parent):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _steps(folder: Path) -> list[Path]:
    """Whole checkpoints by step; a former one counts until its successor has its name."""
    found = sorted(p for p in Path(folder).glob("step-*") if p.is_dir() and p.suffix != ASIDE)
    return [p for p in found if p.suffix != FORMER or p.with_suffix("") not in found]


def _about(folder: Path) -> About | None:
    """The plain values of a checkpoint; None when they are damaged, which ``_damage`` tells."""
    try:
        return About.model_validate_json((folder / STATE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _scored(abouts: dict[Path, About]) -> dict[Path, float]:
    """The scores of those that may be called the best: saved while nothing was wrong."""
    return {f: about.score for f, about in abouts.items() if about.healthy and about.score is not None}


def _damage(folder: Path) -> str | None:
    try:
        verify(folder)
    except IntegrityError as error:
        return f"{error.what[0].lower()}{error.what[1:]} ({str(error.got).split()[0]})"
    return None
