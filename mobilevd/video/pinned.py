"""The data as it is pinned: a folder beside its DVC file, or a DVC remote on S3 whose pinned files are brought here.

**Keeps** what is handed out has the pinned bytes, file by file; what is here already is not brought again
(``tests/video/test_pinned.py``).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mobilevd import remote
from mobilevd.errors import DataError
from mobilevd.places import cache_dir, project_root
from mobilevd.settings import Prepare
from mobilevd.video import clips, identity

LISTING = ".dir"


def md5(prepare: Prepare) -> str:
    """The identity of the data, without reading it where it is pinned. Errors: DataError."""
    if prepare.pin is None:
        return identity.unpinned(project_root() / prepare.data)
    if remote.is_remote(prepare.data) or remote.is_remote(prepare.pin):
        return named(prepare.pin)
    return identity.identity(project_root() / prepare.pin)


def files(prepare: Prepare) -> tuple[dict[str, str], str]:
    """Every file of the data, name → md5 ("" for a link without a file), and the data's identity; nothing is brought.

    Errors: DataError when what is on this disk drifted from its pin; IntegrityError on damage.
    """
    if remote.is_remote(prepare.data):
        known = md5(prepare)
        return {entry["relpath"]: entry["md5"] for entry in listing(prepare, known)}, known
    folder = project_root() / prepare.data
    held, known = identity.contents(folder, None if prepare.pin is None else project_root() / prepare.pin)
    return {source.name: held.get(source.name, "") for source in clips.sources(folder)}, known


def bring(prepare: Prepare, wanted: Mapping[str, str], known: str) -> Path:
    """The folder in which these files (name → md5, as ``files`` gives them) lie. Errors: IntegrityError on damage."""
    if not remote.is_remote(prepare.data):
        return project_root() / prepare.data
    folder = cache_dir() / "data" / known.removesuffix(LISTING)
    files = [(_address(prepare, digest), folder / _inside(name), digest) for name, digest in wanted.items()]
    remote.fetch_files(files)
    return folder


def listing(prepare: Prepare, known: str) -> list[dict[str, str]]:
    """Every file of the pinned folder on a DVC remote: ``md5``, ``relpath``. Errors: as ``files``."""
    data = remote.read(_address(prepare, known))
    got = hashlib.md5(data, usedforsecurity=False).hexdigest() + LISTING
    if got != known:
        raise DataError(
            "The list of the pinned files is not the pinned one", got=got, allowed=known, where=prepare.data
        )
    return json.loads(data)


def named(pin: str) -> str:
    """The identity of the one folder that a DVC file names, here or on S3. Errors: DataError; as ``files``."""
    text = remote.read(pin) if remote.is_remote(pin) else _read(project_root() / pin)
    told: Any = yaml.safe_load(text)
    outs = told.get("outs") if isinstance(told, dict) else None
    if not outs or len(outs) != 1 or not str(outs[0].get("md5", "")).endswith(LISTING):
        raise DataError("The pin names no folder", got=str(told)[:200], allowed="a DVC file of one folder", where=pin)
    return str(outs[0]["md5"])


def _read(pin: Path) -> bytes:
    if not pin.is_file():
        allowed = "a DVC file, which `dvc add` writes beside the folder"
        raise DataError("The data is not pinned", got=f"no {pin}", allowed=allowed, where="prepare.pin")
    return pin.read_bytes()


def _address(prepare: Prepare, known: str) -> str:
    return f"{prepare.data.rstrip('/')}/files/md5/{known[:2]}/{known[2:]}"


def _inside(name: str) -> str:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError("A pinned file leaves its folder", got=name, allowed="a path inside it")
    return name
