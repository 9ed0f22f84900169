"""Retention: which checkpoints, clips and latents nobody refers to any more, and their removal when it is asked for.

**Keeps** what the run of a version, of any model, wrote down stays; so does whatever is younger than asked, and all of
a run that is not done and wrote something since; records, networks and reports stay always
(``tests/stages/test_retention.py``).
"""

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from mobilevd import remote
from mobilevd.artifacts import StageRecord
from mobilevd.errors import IntegrityError, MobileVDError
from mobilevd.registry import history, versions

HEAVY = ("checkpoints", "clips", "latents")  # folders below a stage's that can be made again
LAST = "register/record.json"  # what a run leaves when it is done
DAY_S = 86_400.0


@dataclass(frozen=True)
class Heavy:
    """One folder that may go: where it lies, its bytes, the age of its newest file in days, and why it stays.

    ``going``: the age in days of the newest file of its run, where that is not done; None where it is.
    """

    address: str
    size: int
    days: float
    kept: str = ""
    going: float | None = None


def look(runs: str, model: str, days: float) -> list[Heavy]:
    """Every heavy folder of the runs under ``runs`` (a folder or ``s3://…``), with the reason why it stays, if any.

    Errors: MobileVDError when the registry does not answer or holds no version of ``model``: then it may be another
    one, and nothing is known to be free.
    """
    if not versions.every(model):
        got, allowed = f"no version of {model}", "the registry that the runs were written down in"
        raise MobileVDError(
            "Nothing is known to be free", got=got, allowed=allowed, where="MLFLOW_TRACKING_URI, --model"
        )
    referred, found = references(), _heavy(runs)
    return [_judged(item, referred, days) for item in found]


def apply(found: Iterable[Heavy]) -> int:
    """Remove what nothing keeps; returns the bytes. Errors: MobileVDError."""
    freed = 0
    for item in found:
        if item.kept:
            continue
        if remote.is_remote(item.address):
            remote.remove(item.address)
        else:
            shutil.rmtree(item.address)
        freed += item.size
    return freed


def short(address: str) -> str:
    """A heavy folder's address from its flow on, for people."""
    return "/".join(address.split("/")[-4:])


def references() -> dict[str, str]:
    """Address of every artifact that the run of a version wrote down → that version, of whichever registered model."""
    return {
        artifact.uri.rstrip("/"): f"{version.model} version {version.number}"
        for version in versions.of_all_models()
        if version.run_id  # others register without a run, too
        for record in history.records(version.run_id).values()
        for artifact in record.artifacts.values()
    }


def _judged(item: Heavy, referred: dict[str, str], days: float) -> Heavy:
    kept = referred.get(item.address, "")
    if not kept and item.days < days:
        kept = f"{item.days:.1f} days old, younger than {days:g}"
    if not kept and item.going is not None and item.going < days:
        kept = f"its run is not done, and wrote something {item.going:.1f} days ago"
    return replace(item, kept=kept)


def _heavy(runs: str) -> list[Heavy]:
    home = runs.rstrip("/") if remote.is_remote(runs) else str(Path(runs).resolve())
    files = remote.listed(runs) if remote.is_remote(runs) else _listed(Path(runs))
    folders: dict[str, list[tuple[int, float]]] = {}
    for name, size, at in files:
        parts = name.split("/")
        if len(parts) > 4 and parts[3] in HEAVY:  # flow/run/stage/heavy/…
            folders.setdefault("/".join(parts[:4]), []).append((size, at))
    now, found = time.time(), []
    going = {run: (now - at) / DAY_S for run, at in _wrote(files).items()}
    done = {run: _is_done(f"{home}/{run}") for run in {_run(name) for name in folders}}
    for name, inside in sorted(folders.items()):
        size, days = sum(size for size, _ in inside), (now - max(at for _, at in inside)) / DAY_S
        found.append(Heavy(f"{home}/{name}", size, days, going=None if done[_run(name)] else going[_run(name)]))
    return found


def _wrote(files: list[tuple[str, int, float]]) -> dict[str, float]:
    """When each run last wrote something, heavy or not."""
    last: dict[str, float] = {}
    for name, _, at in files:
        last[_run(name)] = max(at, last.get(_run(name), at))
    return last


def _run(name: str) -> str:
    """The flow and the run that a file, named from where the runs lie, is of."""
    return "/".join(name.split("/")[:2])


def _is_done(run: str) -> bool:
    """Whether a run left its last record, whole: nothing of it goes on, or can be resumed."""
    address = f"{run}/{LAST}"
    try:
        told = remote.read(address) if remote.is_remote(address) else Path(address).read_bytes()
        StageRecord.model_validate_json(told)
    except (IntegrityError, FileNotFoundError, ValidationError):
        return False
    return True


def _listed(runs: Path) -> list[tuple[str, int, float]]:
    if not runs.is_dir():
        raise MobileVDError("There are no runs", got=str(runs), allowed="the folder of the runs", where="MOBILEVD_RUNS")
    runs = runs.resolve()
    stats = ((p.relative_to(runs).as_posix(), p.stat()) for p in runs.rglob("*") if p.is_file() and not p.is_symlink())
    return [(name, stat.st_size, stat.st_mtime) for name, stat in stats]
