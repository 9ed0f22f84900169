"""Records that travel between stages: small, frozen, with digest, parents and figures; weights stay in files.

Keeps: a record written and read again is equal; a file that changed is refused (``tests/test_artifacts.py``).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mobilevd import remote
from mobilevd.errors import IntegrityError

MANIFEST = "manifest.json"


class Artifact(BaseModel):
    """A folder (or one file) of bytes: where it lies (on this disk, or ``s3://…``) and what it hashes to."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    uri: str
    sha256: str

    @property
    def path(self) -> Path:
        """The local folder or file; one on S3 is brought here, once. Errors: IntegrityError when it is gone."""
        if remote.is_remote(self.uri):
            return remote.fetch(self.uri, self.sha256)
        path = Path(self.uri)
        if not path.exists():
            raise IntegrityError(
                "An artifact is gone", got=self.uri, allowed="the folder the stage wrote", where="rerun the stage"
            )
        return path

    def read(self, name: str) -> bytes:
        """One file of the folder, without the others. Errors: IntegrityError when its bytes are not the sealed ones."""
        manifest = self._raw(MANIFEST)
        if (got := hashlib.sha256(manifest).hexdigest()) != self.sha256:
            raise IntegrityError("The manifest changed", got=got, allowed=self.sha256, where=self.uri)
        if name == MANIFEST:
            return manifest
        data, wanted = self._raw(name), json.loads(manifest)["files"].get(name)
        if (got := hashlib.sha256(data).hexdigest()) != wanted:
            raise IntegrityError("A file changed since it was sealed", got=f"{name} {got}", allowed=str(wanted))
        return data

    def part(self, name: str, first: bool = False) -> Path:
        """The file ``name`` or its shards on this disk, as ``shards`` takes it; no other is brought or checked.

        ``first``: of shards only the first. Errors: IntegrityError when one is missing or not the sealed one.
        """
        files = json.loads(self.read(MANIFEST))["files"]
        found = sorted(file for file in files if file == name or file.endswith(f"/{name}"))[: 1 if first else None]
        if not found:
            raise IntegrityError("A file is missing", got=name, where=self.uri)
        wanted = {file: files[file] for file in found}
        if remote.is_remote(self.uri):
            return remote.fetch_part(self.uri, self.sha256, wanted) / name
        for file, digest in wanted.items():
            _verify_file(self.path, file, digest)
        return self.path / name

    def _raw(self, name: str) -> bytes:
        if remote.is_remote(self.uri):
            return remote.read(f"{self.uri}/{name}")
        if not (path := self.path / name).is_file():
            raise IntegrityError("A file is missing", got=name, where=self.uri)
        return path.read_bytes()

    def beside(self, relative: str) -> Path | None:
        """A file of the folder that holds this artifact, brought here if it lies on S3; None where there is none."""
        if remote.is_remote(self.uri):
            return remote.bring_beside(self.uri, relative)
        path = Path(self.uri).parent / relative
        return path if path.is_file() else None


class Manifest(BaseModel):
    """Relative path → sha256 of every file of a sealed folder."""

    files: dict[str, str]


class StageRecord(BaseModel):
    """What a stage leaves: artifacts by name, scalar figures, curves over steps, pictures, and where it came from."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    stage: str
    recipe_digest: str
    data_md5: str
    parents: dict[str, str] = {}
    artifacts: dict[str, Artifact] = {}
    figures: dict[str, float] = {}
    facts: dict[str, str] = {}
    curves: dict[str, list[tuple[int, float]]] = {}
    pictures: dict[str, str] = {}
    tables: dict[str, list[dict[str, Any]]] = {}
    started_at: float = 0.0
    seconds: float = 0.0
    peak_memory_mb: float = 0.0

    def save(self, path: Path) -> None:
        """Write the record as JSON beside the artifacts it names."""
        write_json(path, self.model_dump(mode="json"))


def file_sha256(path: Path) -> str:
    """sha256 of one file, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def seal(folder: Path, known: Mapping[str, str] | None = None) -> Artifact:
    """Write the manifest (relative path → sha256 of every file) into ``folder`` and return its Artifact.

    ``known``: digests that were taken while the files were written.
    """
    folder, known = Path(folder).resolve(), known or {}
    paths = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if _counts(p, folder)}
    files = {name: known.get(name) or file_sha256(path) for name, path in paths.items()}
    write_json(folder / MANIFEST, {"files": files})
    return Artifact(uri=str(folder), sha256=file_sha256(folder / MANIFEST))


def seal_shards(folder: Path, parts: Mapping[str, Artifact]) -> Artifact:
    """Seal ``folder`` with these sealed sub-folders (name → artifact), wherever they lie; only manifests are read.

    Errors: IntegrityError when a manifest changed.
    """
    files: dict[str, str] = {}
    for name, part in parts.items():
        inside = json.loads(part.read(MANIFEST))["files"] | {MANIFEST: part.sha256}
        files |= {f"{name}/{file}": digest for file, digest in inside.items()}
    write_json(Path(folder) / MANIFEST, {"files": files})
    return Artifact(uri=str(folder), sha256=file_sha256(Path(folder) / MANIFEST))


def shards(path: Path) -> list[Path]:
    """The files that hold what ``path`` names: itself, or its shards ``*/<name>`` in folders beside it, in order."""
    path = Path(path)
    return [path] if path.is_file() else sorted(path.parent.glob(f"*/{path.name}"))


def verify(folder: Path, expected: str | None = None) -> None:
    """Check every file of a sealed folder against its manifest, and the manifest against ``expected``.

    Errors: IntegrityError naming the file that is missing, changed or not listed.
    """
    folder = Path(folder)
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise IntegrityError("The folder has no manifest", got=str(folder), allowed=f"a folder with {MANIFEST}")
    if expected is not None and file_sha256(manifest) != expected:
        raise IntegrityError("The manifest changed", got=file_sha256(manifest), allowed=expected, where=str(manifest))
    wanted = listed(manifest)
    for name, digest in wanted.items():
        _verify_file(folder, name, digest)
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if _counts(p, folder)}
    if extra := sorted(present - wanted.keys()):
        raise IntegrityError(
            "The folder holds files its manifest does not list", got=", ".join(extra), where=str(folder)
        )


def listed(manifest: Path) -> dict[str, str]:
    """The files of a manifest. Errors: IntegrityError when it cannot be read, or a name in it leaves the folder."""
    try:
        files = Manifest.model_validate_json(manifest.read_bytes()).files
    except ValidationError:
        raise IntegrityError("The manifest cannot be read", got=str(manifest), allowed="as seal() wrote it") from None
    home = manifest.parent.resolve()
    for name in files:
        if not (home / name).resolve().is_relative_to(home):
            raise IntegrityError("A manifest entry leaves its folder", got=name, where=str(manifest))
    return files


def write_json(path: Path, values: Any) -> None:
    """Write JSON whole or not at all: aside first, then renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    aside.replace(path)


def _counts(path: Path, folder: Path) -> bool:
    return path.is_file() and path != folder / MANIFEST and not path.name.endswith(".part")


def _verify_file(folder: Path, name: str, digest: str) -> None:
    path = folder / name
    if not path.is_file():
        raise IntegrityError("A file is missing", got=name, where=str(folder))
    if file_sha256(path) != digest:
        raise IntegrityError(
            "A file changed since it was sealed", got=f"{name} {file_sha256(path)}", allowed=digest, where=str(folder)
        )
