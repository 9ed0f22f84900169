"""Crash-safe training checkpoints: a folder per step, written aside, sealed with digests, then renamed.

**Keeps** a kill at any moment leaves the newest whole checkpoint readable, and no training continues from
another training's checkpoint (``tests/training/test_checkpoints.py``).
"""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor

from mobilevd.artifacts import seal, verify, write_json
from mobilevd.errors import IntegrityError

STATE = "state.json"
KEEP = 2


class Checkpoint(NamedTuple):
    """What one checkpoint holds: the number of steps done, tensors by file and name, and plain values."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one training, told from others by ``fingerprint`` (recipe, data and parents)."""

    def __init__(self, folder: Path, fingerprint: str):
        self.folder, self.fingerprint = Path(folder), fingerprint

    def save(self, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> Path:
        """Write a checkpoint whole or not at all, then drop all but the newest two."""
        final, aside = self.folder / f"step-{step:08d}", self.folder / f"step-{step:08d}.part"
        for leftover in (aside, final):
            shutil.rmtree(leftover, ignore_errors=True)
        aside.mkdir(parents=True)
        for name, named in tensors.items():
            save_file({key: t.detach().cpu().contiguous() for key, t in named.items()}, aside / f"{name}.safetensors")
        write_json(aside / STATE, {"step": step, "fingerprint": self.fingerprint, "state": state})
        seal(aside)
        aside.rename(final)
        for old in self._steps()[:-KEEP]:
            shutil.rmtree(old)
        return final

    def newest(self) -> Checkpoint | None:
        """The newest intact checkpoint, or None. Errors: IntegrityError when it belongs to another training."""
        for folder in reversed(self._steps()):
            if _intact(folder):
                return self._read(folder)
        return None

    def clear(self) -> None:
        """Remove them all, once the training's result is safe."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _steps(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("step-*") if p.is_dir() and p.suffix != ".part")

    def _read(self, folder: Path) -> Checkpoint:
        values = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if values["fingerprint"] != self.fingerprint:
            raise IntegrityError(
                "The checkpoint belongs to another training",
                got=values["fingerprint"],
                allowed=self.fingerprint,
                where=f"remove {self.folder} to start anew",
            )
        tensors = {path.stem: load_file(path) for path in folder.glob("*.safetensors")}
        return Checkpoint(values["step"], tensors, values["state"])


def _intact(folder: Path) -> bool:
    try:
        verify(folder)
    except IntegrityError:
        return False
    return True
