"""A run's folder that every machine can reach: stages work on their own disk, and what they leave goes to S3.

**Keeps** a record names what was pushed whole, never a half; a stage that is run again on another machine goes on at
its newest checkpoint there, or takes the record of what it had finished (``tests/stages/test_shared_run.py``). A run's
folder on this disk is used as it is.
"""

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mobilevd import progress, remote
from mobilevd.artifacts import MANIFEST, Artifact, StageRecord, verify
from mobilevd.errors import IntegrityError, MobileVDError
from mobilevd.places import cache_dir

CHECKPOINTS, RECORD, STEPS = "checkpoints", "record.json", "step-*"
LOOK_EVERY_S = 2.0


class SharedRun:
    """One stage's folder in a run at ``address`` (a folder or ``s3://bucket/prefix``); ``part``: one task's share."""

    def __init__(self, address: str, key: str, part: str | None = None):
        self._record = f"parts/{part}.json" if part else RECORD
        self.address, self.is_remote = f"{str(address).rstrip('/')}/{key}", remote.is_remote(address)
        under = self.address.removeprefix("s3://")
        self.workdir = cache_dir() / "work" / under if self.is_remote else Path(self.address)

    def finish(self, record: StageRecord) -> StageRecord:
        """Write the record down; of a remote run, push all it names first, and name it by where it lies then."""
        if self.is_remote:
            for artifact in self._own(record):
                remote.push(Path(artifact.uri), self._there(artifact.uri))
            pages = (Path(fact) for fact in record.facts.values() if fact.startswith(self._here))
            pictures = (self.workdir.resolve() / picture for picture in record.pictures.values())
            for file in filter(Path.is_file, (*pictures, *pages)):
                remote.push_file(file, self._there(file))
            record = self._named(record)
        record.save(self.workdir / self._record)
        if self.is_remote:
            remote.push_file(self.workdir / self._record, f"{self.address}/{self._record}")
            remote.remove(f"{self.address}/{CHECKPOINTS}")
        return record

    def left(self, recipe_digest: str, inputs: Mapping[str, StageRecord], alone: bool = True) -> StageRecord | None:
        """The record that an earlier attempt left here, if it is of this recipe and ``inputs``, and all of it is whole.

        Of a remote run, one that lies on this machine and was not pushed counts too, where the stage is run ``alone``:
        no other machine would know of it. Errors: MobileVDError.
        """
        places = [self._there_written] if self.is_remote else []
        places += [self._here_written] if alone or not self.is_remote else []
        for read in places:
            try:
                record = StageRecord.model_validate_json(read())
                if _made_of(record, recipe_digest, inputs):
                    self._check(record)
                    return record
            except IntegrityError:
                continue
        return None

    def _there_written(self) -> bytes:
        return remote.read(f"{self.address}/{self._record}")

    def _here_written(self) -> bytes:
        if not (path := self.workdir / self._record).is_file():
            raise IntegrityError("There is no record", got=str(path), allowed="one that was finished")
        return path.read_bytes()

    def _check(self, record: StageRecord) -> None:
        """Errors: IntegrityError when an artifact is not whole; a picture that lies elsewhere is brought."""
        for artifact in record.artifacts.values():
            there = remote.is_remote(artifact.uri)
            artifact.read(MANIFEST) if there else verify(artifact.path, artifact.sha256)
        for picture in record.pictures.values() if self.is_remote else ():
            if not (path := self.workdir / picture).is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(remote.read(f"{self.address}/{picture}"))

    @contextmanager
    def checkpoints(self, push: bool = True) -> Iterator[None]:
        """Bring the newest checkpoint here if there is none, and ``push`` each new one while the body runs."""
        if self.is_remote:
            self._restore()
        if not self.is_remote or not push:
            yield
            return
        done = threading.Event()
        pushing = threading.Thread(target=self._push_until, args=(done,), daemon=True)
        pushing.start()
        try:
            yield
        finally:
            done.set()
            pushing.join()
            self._push()

    @contextmanager
    def reachable(self) -> Iterator[None]:
        """The pages that an error of the body names are pushed, and the error names them by where they lie then."""
        try:
            yield
        except MobileVDError as error:
            where = self._reached(error.where) if self.is_remote and error.where else error.where
            if where == error.where:
                raise
            raise type(error)(error.what, got=error.got, allowed=error.allowed, where=where) from error

    def _reached(self, where: str) -> str:
        """``where`` with the pages that lie under it pushed, each with the folder around it if that is its own."""
        for page in map(Path, re.findall(rf"{re.escape(self._here)}.+?\.html", where)):
            alone = page.parent == self.workdir.resolve()
            try:
                push, moved = (remote.push_file, page) if alone else (remote.push, page.parent)
                push(moved, self._there(moved))
            except (MobileVDError, OSError) as unreached:
                progress.say(f"{page.name} stays on this machine: {unreached}")
                continue
            where = where.replace(str(page), self._there(page))
        return where

    def _push_until(self, done: threading.Event) -> None:
        """Errors of the store are said once and tried again; the last push, after the body, raises them."""
        failing = False
        while not done.wait(LOOK_EVERY_S):
            try:
                self._push()
                failing = False
            except MobileVDError as error:
                if not failing:
                    progress.say(f"checkpoints stay on this machine for now, and are pushed again soon: {error}")
                failing = True

    def _push(self) -> None:
        """Push what is whole here, then remove there what training let go here."""
        folder = self.workdir / CHECKPOINTS
        here = sorted(p.name for p in folder.glob(STEPS) if (p / MANIFEST).is_file())
        there = self._whole_there()
        for name in here:
            if name not in there and self._pushed(folder / name):
                there.append(name)
        for name in there if here else ():
            if name not in here:
                remote.remove(f"{self.address}/{CHECKPOINTS}/{name}")

    def _pushed(self, folder: Path) -> bool:
        try:
            remote.push(folder, f"{self.address}/{CHECKPOINTS}/{folder.name}")
        except FileNotFoundError:  # training let it go meanwhile; without its manifest it is none
            return False
        return True

    def _restore(self) -> None:
        folder, there = self.workdir / CHECKPOINTS, self._whole_there()
        if there and not any(folder.glob(STEPS)):
            remote.pull(f"{self.address}/{CHECKPOINTS}/{there[-1]}", folder / there[-1])

    def _whole_there(self) -> list[str]:
        names = remote.names(f"{self.address}/{CHECKPOINTS}")
        return sorted(name.removesuffix(f"/{MANIFEST}") for name in names if name.endswith(f"/{MANIFEST}"))

    @staticmethod
    def _own(record: StageRecord) -> list[Artifact]:
        """What was made on this machine; what others made is named by where it lies."""
        return [artifact for artifact in record.artifacts.values() if not remote.is_remote(artifact.uri)]

    @property
    def _here(self) -> str:
        return f"{self.workdir.resolve()}/"

    def _there(self, uri: str | Path) -> str:
        return f"{self.address}/{Path(uri).resolve().relative_to(self.workdir.resolve()).as_posix()}"

    def _named(self, record: StageRecord) -> StageRecord:
        made = record.artifacts | {
            n: Artifact(uri=self._there(a.uri), sha256=a.sha256)
            for n, a in record.artifacts.items()
            if a in self._own(record)
        }
        facts = {name: self._there(v) if v.startswith(self._here) else v for name, v in record.facts.items()}
        return record.model_copy(update={"artifacts": made, "facts": facts})


def _made_of(record: StageRecord, recipe_digest: str, inputs: Mapping[str, StageRecord]) -> bool:
    """Whether all that the record was made of is the same; where no input names its base, the record's own counts."""
    bases = {one.parents["base"] for one in inputs.values() if "base" in one.parents}
    known = {artifact.sha256 for one in inputs.values() for artifact in one.artifacts.values()}
    known |= bases or {record.parents.get("base", "")}
    of_one_data = {one.data_md5 for one in inputs.values()} == {record.data_md5}
    return of_one_data and record.recipe_digest == recipe_digest and known.issuperset(record.parents.values())
