"""A run's folder that every machine can reach: stages work on their own disk, and what they leave goes to S3.

**Keeps** a record names what was pushed whole, never a half; a stage that is run again on another machine goes on at
its newest checkpoint there (``tests/stages/test_shared_run.py``). A run's folder on this disk is used as it is.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mobilevd import remote
from mobilevd.artifacts import MANIFEST, Artifact, StageRecord, verify
from mobilevd.errors import IntegrityError
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

    def left(self) -> StageRecord | None:
        """The record that an earlier attempt finished here, if what it names is whole. Errors: MobileVDError."""
        try:
            data = remote.read(f"{self.address}/{self._record}") if self.is_remote else self._here_written()
            record = StageRecord.model_validate_json(data)
            for artifact in record.artifacts.values():
                artifact.read(MANIFEST) if self.is_remote else verify(artifact.path, artifact.sha256)
        except IntegrityError:
            return None
        return record

    def _here_written(self) -> bytes:
        if not (path := self.workdir / self._record).is_file():
            raise IntegrityError("There is no record", got=str(path), allowed="one that was finished")
        return path.read_bytes()

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

    def _push_until(self, done: threading.Event) -> None:
        while not done.wait(LOOK_EVERY_S):
            self._push()

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
