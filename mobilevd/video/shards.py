"""The files of a data folder shared out: which shard each is in and, with more than one, which side it is on.

**Keeps** every file is in exactly one shard, and all views of a scene are on one side whatever shards they are in
(``tests/video/test_shards.py``). A single shard chooses its sides once it knows which files can be used.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mobilevd.settings import Prepare
from mobilevd.video import clips
from mobilevd.video.clips import Source

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True)
class Shard:
    """Shard ``number`` among ``of``: name → md5 (empty for a file on this disk), and name → side (empty: to be chosen).

    ``folder``: its own below those of the clips and of the latents; a single shard needs none.
    """

    number: int
    of: int
    files: dict[str, str]
    sides: dict[str, str]

    @property
    def folder(self) -> str:
        return f"{self.number:05d}" if self.of > 1 else ""


def plan(files: Mapping[str, str], prepare: Prepare) -> "pyarrow.Table":
    """One row per file (name → md5) that the recipe can use, in the order of the names."""
    import pyarrow

    sources = usable([Source(name, Path(name)) for name in sorted(files)], prepare)
    names = [source.name for source in sources]
    several = len(names) > prepare.files_per_shard
    sides = clips.sides(sources, prepare.validation_share, prepare.scene) if several else dict.fromkeys(names, "")
    columns = {"source": names, "md5": [files[name] for name in names], "side": [sides[name] for name in names]}
    return pyarrow.table(columns, schema=pyarrow.schema([(name, pyarrow.string()) for name in columns]))


def count(planned: "pyarrow.Table", prepare: Prepare) -> int:
    """The number of shards, at least one."""
    return max(1, -(-len(planned) // prepare.files_per_shard))


def write(planned: "pyarrow.Table", prepare: Prepare, folder: Path) -> None:
    """Write a plan under ``folder``, one file per shard."""
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count(planned, prepare)):
        rows = planned.slice(number * prepare.files_per_shard, prepare.files_per_shard)
        pyarrow.parquet.write_table(rows, folder / file(number), compression="zstd")


def file(number: int) -> str:
    """The name of a shard's part of the plan."""
    return f"{number:05d}.parquet"


def read(part: bytes, number: int, of: int) -> Shard:
    """One shard from its part of the plan."""
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(io.BytesIO(part)).to_pylist()
    return Shard(number, of, {r["source"]: r["md5"] for r in rows}, {r["source"]: r["side"] for r in rows})


def usable(sources: list[Source], prepare: Prepare) -> list[Source]:
    """Every file that is not hidden; photographs only when the recipe renders clips from them."""
    photos = prepare.rendered.train_per_photo + prepare.rendered.validation_per_photo > 0
    return [source for source in sources if (photos or not source.is_photo) and not source.is_hidden]
