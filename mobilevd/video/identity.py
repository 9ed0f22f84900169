"""Which bytes we learn from: the folder's identity as DVC pins it, and a stop when the folder drifted from its pin.

**Keeps** a folder that passes has the pinned bytes, whether or not DVC's cache holds them (``test_identity.py``).
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mobilevd.errors import DataError
from mobilevd.video import sample_data

AT_MOST_NAMED = 20


def identity(pin: Path) -> str:
    """The md5 that the DVC file ``pin`` holds for its one folder. Errors: DataError when it holds none."""
    with _pinned(Path(pin)) as out:
        return out.hash_info.value


def check(data: Path, pin: Path) -> str:
    """Compare every byte under ``data`` with ``pin`` and return the md5.

    Errors: DataError naming the files that were added, changed or went missing.
    """
    return contents(data, pin)[1]


def contents(data: Path, pin: Path | None) -> tuple[dict[str, str], str]:
    """The md5 of every file under ``data``, by its path there, and of all as ``check`` or, without a pin, ``unpinned``.

    What ``.dvcignore`` names is no file of a pinned folder. Errors: as ``check``.
    """
    if pin is None:
        held = _hashed(Path(data))
        return held, _summed(held)
    data, pin = Path(data).resolve(), Path(pin)
    with _pinned(pin) as out:
        if Path(out.fs_path).resolve() != data:
            raise DataError(
                "The pin belongs to another folder",
                got=f"{pin.name} pins {out.fs_path}, the recipe reads {data}",
                allowed="the pin of the folder that is read, or none",
                where="prepare.data and prepare.pin (null: unpinned)",
            )
        if not data.is_dir():
            raise DataError(
                "There is no data",
                got=str(data),
                allowed="the folder that is pinned",
                where="mobilevd sample-data, or dvc pull",
            )
        tree = _tree(out)
        if tree.hash_info != out.hash_info:
            raise _drift(data, pin, out, tree)
        return _listing(tree), out.hash_info.value


def unpinned(data: Path) -> str:
    """An md5 over the relative path and the bytes of every file under ``data``, for a folder that DVC does not pin."""
    return contents(data, None)[1]


def _hashed(data: Path) -> dict[str, str]:
    if not data.is_dir():
        raise DataError("There is no data", got=str(data), allowed="a folder of videos", where="prepare.data")
    held: dict[str, str] = {}
    for path in sorted(p for p in data.rglob("*") if p.is_file()):
        with path.open("rb") as stream:
            held[path.relative_to(data).as_posix()] = hashlib.file_digest(stream, "md5").hexdigest()
    return held


def _summed(held: dict[str, str]) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for name, content in held.items():
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


@contextmanager
def _pinned(pin: Path) -> Iterator:
    """DVC's record of the one folder that ``pin`` names; no git is needed, nor the working directory."""
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    from dvc.dvcfile import load_file
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    if not pin.is_file():
        raise DataError(
            "The data is not pinned",
            got=f"no {pin}",
            allowed="a DVC file",
            where=f"dvc add {pin.stem}, or prepare.pin: null",
        )
    try:
        with Repo(str(pin.resolve().parent), config={"core": {"no_scm": True}}) as repo:
            [out] = load_file(repo, str(pin.resolve())).stage.outs
            yield out
    except DvcException as error:
        raise DataError(f"DVC cannot read {pin}", got=str(error), where="dvc init, dvc add") from error


def _tree(out):
    from dvc_data.hashfile.build import build

    _, _, tree = build(out.cache, out.fs_path, out.fs, out.hash_name, ignore=out.dvcignore, dry_run=True)
    return tree


def _drift(data: Path, pin: Path, out, tree) -> DataError:
    named = _differences(data, out, tree)
    lines = [f"{kind}: {name}" for name, kind in sorted(named.items())]
    if not lines:
        lines = [f"{tree.hash_info.value}, and DVC's cache does not hold the list of files that was pinned"]
    more = [f"and {len(lines) - AT_MOST_NAMED} more"] if len(lines) > AT_MOST_NAMED else []
    return DataError(
        f"The data drifted from {pin.name}",
        got="\n           ".join(lines[:AT_MOST_NAMED] + more),
        allowed=f"the files pinned as {out.hash_info.value}",
        where=f"`dvc add {data.name}` to pin what is there; mobilevd sample-data, or dvc pull, to bring back what was",
    )


def _differences(data: Path, out, tree) -> dict[str, str]:
    before, now = _listing(out.get_obj()), _listing(tree)
    if not before:
        return sample_data.differences(data) if out.hash_info.value == sample_data.IDENTITY else {}
    kinds = {"added": now.keys() - before.keys(), "missing": before.keys() - now.keys()}
    kinds["changed"] = {name for name in now.keys() & before.keys() if now[name] != before[name]}
    return {name: kind for kind, names in kinds.items() for name in names}


def _listing(tree) -> dict[str, str]:
    return {"/".join(key): info.value for key, _, info in tree} if tree else {}
