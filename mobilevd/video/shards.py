"""The files of a data folder shared out: which shard each is in and, with more than one, which side it is on.

**Keeps** every file is in exactly one shard, and all views of a scene are on one side whatever shards they are in
(``tests/video/test_shards.py``). A single shard chooses its sides once it knows which files can be used. Of files with
the same bytes one is used.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mobilevd.settings import Prepare
from mobilevd.video import clips
from mobilevd.video.clips import Source
from mobilevd.video.manifest import Rejected

if TYPE_CHECKING:
    import pyarrow

EMPTY = hashlib.md5(b"", usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Shard:
    """Shard ``number`` among ``of``: name → md5 (empty for a file on this disk), and name → side (empty: to be chosen).

    ``copies``: those that have the bytes of another file, name → that one. ``total``: files of all shards together
    (None: these). ``folder``: its own below those of the clips and of the latents; a single shard needs none.
    """

    number: int
    of: int
    files: dict[str, str]
    sides: dict[str, str]
    copies: dict[str, str] = field(default_factory=dict)
    total: int | None = None

    @property
    def folder(self) -> str:
        return f"{self.number:05d}" if self.of > 1 else ""

    @property
    def used(self) -> dict[str, str]:
        """The files that are no copies, name → md5."""
        return {name: md5 for name, md5 in self.files.items() if name not in self.copies}

    @property
    def rejected(self) -> list[Rejected]:
        """The copies, as what is not used is listed."""
        return [Rejected(name, f"same bytes as {other}") for name, other in self.copies.items()]


def plan(files: Mapping[str, str], prepare: Prepare, brought: bool = True) -> "pyarrow.Table":
    """One row per file (name → md5) that the recipe can use, in the order of the names.

    ``brought``: the shards bring their files, by md5; what lies on this disk needs none. A copy has no side.
    """
    import pyarrow

    sources = usable([Source(name, Path(name)) for name in sorted(files)], prepare)
    names = [source.name for source in sources]
    copied = copies({name: files[name] for name in names})
    used = [source for source in sources if source.name not in copied]
    several = len(names) > prepare.files_per_shard
    sides = clips.sides(used, prepare.validation_share, prepare.scene) if several else {}
    columns = {"source": names, "md5": [files[name] if brought else "" for name in names]}
    columns["side"] = [sides.get(name, "") for name in names]
    if copied:  # no column without a copy: a plan that has none keeps the digest that it always had
        columns["same_as"] = [copied.get(name, "") for name in names]
    return pyarrow.table(columns, schema=pyarrow.schema([(name, pyarrow.string()) for name in columns]))


def copies(files: Mapping[str, str]) -> dict[str, str]:
    """Those of ``files`` (name → md5) that have the bytes of another, name → that one: the one of the shortest name.

    A copy's name is the longer one (``bikes (1).mp4``). Empty files and links without a file have reasons of their own.
    """
    first: dict[str, str] = {}
    for name in sorted(files, key=lambda name: (len(name), name)):
        first.setdefault(files[name], name)
    return {name: first[md5] for name, md5 in files.items() if md5 not in ("", EMPTY) and first[md5] != name}


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


def read(part: bytes, number: int, of: int, total: int | None = None) -> Shard:
    """One shard from its part of the plan, which has ``total`` files in all."""
    import pyarrow.parquet

    return taken(pyarrow.parquet.read_table(io.BytesIO(part)), number, of, total)


def taken(planned: "pyarrow.Table", number: int = 0, of: int = 1, total: int | None = None) -> Shard:
    """A plan, or a part of one, as a shard."""
    told = {name: planned[name].to_pylist() for name in planned.column_names}
    files, sides = (dict(zip(told["source"], told[name], strict=True)) for name in ("md5", "side"))
    copied = dict(zip(told["source"], told["same_as"], strict=True)) if "same_as" in told else {}
    return Shard(number, of, files, sides, {name: other for name, other in copied.items() if other}, total)


def usable(sources: list[Source], prepare: Prepare) -> list[Source]:
    """Every file that is not hidden; photographs only when the recipe renders clips from them."""
    photos = prepare.rendered.train_per_photo + prepare.rendered.validation_per_photo > 0
    return [source for source in sources if (photos or not source.is_photo) and not source.is_hidden]
