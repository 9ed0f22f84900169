"""Retention: which checkpoints, clips and latents nobody refers to any more, and their removal when it is asked for.

**Keeps** what a registered version's run wrote down, and whatever is younger than asked, stays; records, networks and
reports stay always (``tests/stages/test_retention.py``).
"""

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mobilevd import remote
from mobilevd.errors import MobileVDError
from mobilevd.registry import history, versions

HEAVY = ("checkpoints", "clips", "latents")  # folders below a stage's that can be made again
DAY_S = 86_400.0


@dataclass(frozen=True)
class Heavy:
    """One folder that may go: where it lies, its bytes, the age of its newest file in days, and why it stays."""

    address: str
    size: int
    days: float
    kept: str = ""


def look(runs: str, model: str, days: float) -> list[Heavy]:
    """Every heavy folder of the runs under ``runs`` (a folder or ``s3://…``), with the reason why it stays, if any.

    Errors: MobileVDError when the registry does not answer or holds no version: then nothing is known to be free.
    """
    if not versions.every(model):
        got, allowed = f"no version of {model}", "the registry that the runs were written down in"
        raise MobileVDError(
            "Nothing is known to be free", got=got, allowed=allowed, where="MLFLOW_TRACKING_URI, --model"
        )
    referred, found = references(model), _heavy(runs)
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


def references(model: str) -> dict[str, str]:
    """Address of every artifact that the run of a registered version wrote down → that version."""
    return {
        artifact.uri.rstrip("/"): f"version {version.number}"
        for version in versions.every(model)
        for record in history.records(version.run_id).values()
        for artifact in record.artifacts.values()
    }


def _judged(item: Heavy, referred: dict[str, str], days: float) -> Heavy:
    kept = referred.get(item.address, "")
    if not kept and item.days < days:
        kept = f"{item.days:.1f} days old, younger than {days:g}"
    return Heavy(item.address, item.size, item.days, kept)


def _heavy(runs: str) -> list[Heavy]:
    files = remote.listed(runs) if remote.is_remote(runs) else _listed(Path(runs))
    folders: dict[str, list[tuple[int, float]]] = {}
    for name, size, at in files:
        parts = name.split("/")
        if len(parts) > 4 and parts[3] in HEAVY:  # flow/run/stage/heavy/…
            folders.setdefault("/".join(parts[:4]), []).append((size, at))
    now, home = time.time(), runs.rstrip("/") if remote.is_remote(runs) else str(Path(runs).resolve())
    return [
        Heavy(f"{home}/{name}", sum(s for s, _ in inside), (now - max(at for _, at in inside)) / DAY_S)
        for name, inside in sorted(folders.items())
    ]


def _listed(runs: Path) -> list[tuple[str, int, float]]:
    if not runs.is_dir():
        raise MobileVDError("There are no runs", got=str(runs), allowed="the folder of the runs", where="MOBILEVD_RUNS")
    runs = runs.resolve()
    stats = ((p.relative_to(runs).as_posix(), p.stat()) for p in runs.rglob("*") if p.is_file() and not p.is_symlink())
    return [(name, stat.st_size, stat.st_mtime) for name, stat in stats]
