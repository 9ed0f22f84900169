"""Replay: run a model's recipe on its data once more, and hold what comes out against what the model says of itself.

**Keeps** agreement by digests needs every artifact; agreement by figures says so and by how much they may differ
(``tests/stages/test_replay.py``). Times and timings are not compared: no two runs have the same.
"""

import importlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from mobilevd import params
from mobilevd.artifacts import StageRecord
from mobilevd.errors import IntegrityError
from mobilevd.stages import lineage, models

CHAIN = ("prepare", "finetune", "distill", "prune", "funnel", "quantize", "evaluate")
DATED = {"data_docs"}  # artifacts that tell when they were made
VARYING = ("seconds", "_s", "_ms", "memory_mb", "_reused")  # times, and what a cache happened to hold
SAME, OTHER = "same digests", "other digests"


@dataclass(frozen=True)
class Replayed:
    """One stage that ran again: whether its artifacts are the same, why not, and its other figures, (before, now)."""

    stage: str
    artifacts: str
    differ: dict[str, tuple[float, float]]
    why: str = ""


def run(address: str, workdir: Path, upto: str = CHAIN[-1], tolerance: float = 0.05) -> Iterator[Replayed]:
    """Run the stages of the model's recipe up to ``upto`` under ``workdir``, and compare each with the model's.

    Args:
        tolerance: a figure differs when it is further than this share from the one before.
    Errors: DataError when the data here is not the model's; whatever a stage raises.
    """
    folder = models.folder(address, "MODEL")
    told = lineage.read(folder)
    recipe = params.check(yaml.safe_load((folder / lineage.RECIPE).read_text(encoding="utf-8")), "the bundle")
    if recipe.digest != told["recipe"]["sha256"]:
        raise IntegrityError("The bundle's recipe is another", got=recipe.digest, allowed=told["recipe"]["sha256"])
    before = json.loads((folder / lineage.REPORT).read_text(encoding="utf-8")).get("figures", {})
    records: dict[str, StageRecord] = {}
    for stage in CHAIN[: CHAIN.index(upto) + 1]:
        record = importlib.import_module(f"mobilevd.stages.{stage}").run(recipe, records, Path(workdir) / stage)
        records[stage] = record
        if record.data_md5 != told["data_md5"]:
            raise IntegrityError("The data here is not the model's", got=record.data_md5, allowed=told["data_md5"])
        same = _artifacts(record, told)
        if same == SAME:
            yield Replayed(stage, same, {})
        else:
            yield Replayed(stage, same, _differing(record, before, tolerance), _threads(record, told))


def verdict(replayed: list[Replayed]) -> tuple[bool, str]:
    """Whether the run agrees, and by what."""
    if all(one.artifacts == SAME for one in replayed):
        return True, "every artifact has the same digest"
    differing = sorted(name for one in replayed for name in one.differ)
    if differing:
        return False, f"digests differ, and so do {', '.join(differing)}"
    return True, "digests differ, and every figure agrees"


def _artifacts(record: StageRecord, told: Mapping) -> str:
    made = {name: artifact.sha256 for name, artifact in record.artifacts.items() if name not in DATED}
    stated = told["stages"].get(record.stage, {}).get("artifacts", {})
    return SAME if made and all(stated.get(name) == digest for name, digest in made.items()) else OTHER


def _threads(record: StageRecord, told: Mapping) -> str:
    """Why no digest can agree, where a stage trained on another number of threads; else nothing."""
    was, now = told["stages"].get(record.stage, {}).get("threads"), record.facts.get("threads")
    if None in (was, now) or was == now:
        return ""
    return f"{was} threads before, {now} now, which add in another order: OMP_NUM_THREADS={was} adds alike"


def _differing(record: StageRecord, before: Mapping[str, float], tolerance: float) -> dict[str, tuple[float, float]]:
    found = {}
    for name, now in record.figures.items():
        full = name if "." in name else f"{record.stage}.{name}"
        if full.endswith(VARYING):
            continue
        was = before.get(full, math.nan)
        if not math.isclose(was, now, rel_tol=tolerance, abs_tol=1e-9):
            found[full] = (was, now)
    return found
