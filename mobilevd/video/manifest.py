"""The list of clips, one row each, in the order of the tensors; and the list of what was left out, with reasons.

**Keeps** rows written and read again are equal (``tests/video/test_manifest.py``).
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

CLIPS, REJECTED = "clips.jsonl", "rejected.jsonl"


@dataclass(frozen=True)
class Row:
    """One clip: where it comes from, which side it is on, what it is, and how much moves in it.

    ``motion`` is the mean absolute difference of neighbouring frames, pixels in [0, 1]; ``camera`` names the motion
    of a rendered clip and is empty for a real one.
    """

    clip_id: str
    source: str
    source_sha256: str
    split: str
    rendered: bool
    camera: str
    start_s: float
    fps: float
    frames: int
    width: int
    height: int
    motion: float
    pixels_sha256: str

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the end of the last."""
        return self.frames / self.fps


@dataclass(frozen=True)
class Rejected:
    """A file, or one window of it (``start_s``), that is not used, and why; reason from decode.Reason."""

    source: str
    reason: str
    detail: str = ""
    start_s: float | None = None


def write(folder: Path, rows: Iterable[Row], rejected: Iterable[Rejected]) -> None:
    """Write both lists under ``folder`` as JSON lines."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, items in ((CLIPS, rows), (REJECTED, rejected)):
        lines = [json.dumps(asdict(item), sort_keys=True, ensure_ascii=False) + "\n" for item in items]
        (folder / name).write_text("".join(lines), encoding="utf-8")


def rows(folder: Path) -> list[Row]:
    """The clips listed under ``folder``, in the order of the tensors of their side."""
    return [Row(**values) for values in _lines(Path(folder) / CLIPS)]


def rejected(folder: Path) -> list[Rejected]:
    """What was left out."""
    return [Rejected(**values) for values in _lines(Path(folder) / REJECTED)]


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
