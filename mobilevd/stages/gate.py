"""The gate: every figure of the run against the recipe's gates; the verdict is written down, it is not an error.

**Keeps** a figure is never replaced by another of the same name (``tests/stages/test_gate.py``).
"""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from mobilevd.artifacts import StageRecord, seal, write_json
from mobilevd.errors import IntegrityError
from mobilevd.evaluation.gates import Verdict, judge
from mobilevd.params import Recipe

VERDICT_FILE = "gates.json"


def run(recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path) -> StageRecord:
    """Judge the figures of all ``inputs``; write ``gates/gates.json`` (verdict and one row per gate) under ``workdir``.

    Errors: IntegrityError without records, for records of different recipes or data, and for a name given twice.
    """
    started = time.time()
    data_md5 = _same_run(recipe, inputs)
    verdict = judge(recipe.gates, merge(inputs))
    word = "passed" if verdict.passed else "rejected"
    rows = [asdict(row) for row in verdict.rows]
    folder = Path(workdir) / "gates"
    write_json(folder / VERDICT_FILE, {"verdict": word, "recipe": recipe.digest, "data_md5": data_md5, "rows": rows})
    return StageRecord(
        stage="gate",
        recipe_digest=recipe.digest,
        data_md5=data_md5,
        parents=_digests(inputs),
        artifacts={"gates": seal(folder)},
        figures=_counts(verdict),
        facts={"verdict": word},
        tables={"gates": rows},
        started_at=started,
        seconds=time.time() - started,
    )


def merge(inputs: Mapping[str, StageRecord]) -> dict[str, float]:
    """All figures of ``inputs`` in one mapping, under the names that gates use.

    A name with a dot says already what was measured (``student.fvd``, ``profile.host-cpu.p50_ms``) and is kept; a name
    without one gets the stage before it (``seconds`` of finetune: ``finetune.seconds``).
    Errors: IntegrityError when two records give the same name.
    """
    merged: dict[str, float] = {}
    origin: dict[str, str] = {}
    for key, record in inputs.items():
        for name, value in record.figures.items():
            full = name if "." in name else f"{record.stage}.{name}"
            if full in merged:
                got = f"{full} from {origin[full]} and {key}"
                raise IntegrityError("Two records give the same figure", got=got, allowed="one record per name")
            merged[full], origin[full] = value, key
    return merged


def _same_run(recipe: Recipe, inputs: Mapping[str, StageRecord]) -> str:
    if not inputs:
        raise IntegrityError("The gate got no records", allowed="the records of the stages whose figures it judges")
    if strangers := [key for key, record in inputs.items() if record.recipe_digest != recipe.digest]:
        raise IntegrityError("Records of another recipe", got=", ".join(strangers), allowed=recipe.digest)
    data = {record.data_md5 for record in inputs.values()}
    if len(data) > 1:
        raise IntegrityError("Records of different data", got=", ".join(sorted(data)), allowed="one data set per run")
    return data.pop()


def _digests(inputs: Mapping[str, StageRecord]) -> dict[str, str]:
    return {f"{key}.{name}": a.sha256 for key, record in inputs.items() for name, a in record.artifacts.items()}


def _counts(verdict: Verdict) -> dict[str, float]:
    passed = sum(row.passed for row in verdict.rows)
    return {"gates.passed": float(passed), "gates.failed": float(len(verdict.rows) - passed)}
