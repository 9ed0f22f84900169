"""The list of clips, one row each, in the order of the tensors; and the list of what was left out, with reasons.

Both are parquet; a list in shards (``00000/clips.parquet`` …) is read as one. **Keeps** rows written and read again are
equal, whatever their number of shards (``tests/video/test_manifest.py``).
"""

import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from mobilevd.artifacts import shards

if TYPE_CHECKING:
    import pyarrow

CLIPS, REJECTED = "clips.parquet", "rejected.parquet"


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


@dataclass(frozen=True)
class Rejected:
    """A file, or one window of it (``start_s``), that is not used, and why.

    ``reason``: from decode.Reason, or of whole files "same bytes as …".
    """

    source: str
    reason: str
    detail: str = ""
    start_s: float | None = None


Kind = type[Row] | type[Rejected]


def write(folder: Path, rows: Iterable[Row], rejected: Iterable[Rejected]) -> None:
    """Write both lists under ``folder``."""
    import pyarrow.parquet

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, kind, items in ((CLIPS, Row, rows), (REJECTED, Rejected, rejected)):
        pyarrow.parquet.write_table(table(items, kind), folder / name, compression="zstd")


def rows(folder: Path) -> list[Row]:
    """The clips listed under ``folder``, in the order of the tensors of their side."""
    return [Row(**values) for values in _stored(Path(folder) / CLIPS)]


def rejected(folder: Path) -> list[Rejected]:
    """What was left out."""
    return [Rejected(**values) for values in _stored(Path(folder) / REJECTED)]


def table(items: Iterable[Row] | Iterable[Rejected], kind: Kind = Row) -> "pyarrow.Table":
    """Rows of one kind as a table."""
    import pyarrow

    return pyarrow.Table.from_pylist([asdict(item) for item in items], schema=_schema(kind))


def joined(files: Iterable[bytes], kind: Kind = Row) -> "pyarrow.Table":
    """The lists in these files as one table, in their order."""
    import pyarrow
    import pyarrow.parquet

    read = [pyarrow.parquet.read_table(io.BytesIO(file), schema=_schema(kind)) for file in files]
    return pyarrow.concat_tables([_schema(kind).empty_table(), *read])


def _stored(path: Path) -> list[dict]:
    kind = Row if path.name == CLIPS else Rejected
    return joined((file.read_bytes() for file in shards(path)), kind).to_pylist()


def _schema(kind: Kind) -> "pyarrow.Schema":
    import pyarrow

    types = {str: pyarrow.string(), bool: pyarrow.bool_(), int: pyarrow.int64()}
    return pyarrow.schema([(field.name, types.get(field.type, pyarrow.float64())) for field in fields(kind)])
