"""Which stages of an earlier run need not run again: those that read the same and whose parents need not either.

**Keeps** a changed value reaches every stage that reads it or anything made of it; when in doubt a stage runs again
(``tests/stages/test_reuse.py``).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobilevd.artifacts import MANIFEST, StageRecord, file_sha256
from mobilevd.errors import IntegrityError
from mobilevd.params import HEADS, OPERATIONS, Recipe

CHAIN = ("prepare", "finetune", "distill", "prune", "funnel", "quantize", "profile", "evaluate")
NEEDS = {  # stage → the stages whose artifacts it reads
    "prepare": (),
    "finetune": ("prepare",),
    "distill": ("prepare", "finetune"),
    "prune": ("prepare", "finetune", "distill"),
    "funnel": ("prepare", "finetune", "prune"),
    "quantize": ("prepare", "funnel"),
    "profile": ("prepare", "quantize"),
    "evaluate": ("prepare", "finetune", "distill", "prune", "funnel", "quantize"),
}
TRAINED = ("finetune", "distill", "prune", "funnel")  # the only ones that read the section ``training``
AT_INFERENCE = ("motion_bucket", "augmentation_sigma")  # of evaluate, and read by every stage that trains
READ_BY_NO_STAGE = {"name", "gates", "registry", *OPERATIONS}


def still_valid(
    recipe: Recipe, before: Recipe | None, data_md5: str, records: Mapping[str, StageRecord]
) -> dict[str, StageRecord]:
    """The records of an earlier run, made under the recipe ``before``, that this recipe would make again on this data.

    They are given as this run's own, with the recipe they were made under among their facts. None for ``before`` (an
    unknown recipe) leaves nothing; so does a record whose artifacts are gone or changed.
    """
    valid: dict[str, StageRecord] = {}
    for stage in CHAIN if before is not None else ():
        mine = {name: record for name, record in records.items() if record.stage == stage}
        same = reads(recipe, stage) == reads(before, stage) and all(parent in valid for parent in NEEDS[stage])
        gives = {HEADS} if stage in recipe.handed_on().values() else set()
        if same and mine and all(r.data_md5 == data_md5 and _is_whole(r, gives) for r in mine.values()):
            valid |= {name: _as_own(record, recipe) for name, record in mine.items()}
    return valid


def reads(recipe: Recipe, stage: str) -> dict[str, Any]:
    """Every value that changes what ``stage`` makes; a section that belongs to no stage is read by all.

    What the recipe's digest leaves out is left out here by the same function: it never costs a training.
    """
    values = recipe.what()
    elsewhere = READ_BY_NO_STAGE | set(CHAIN) | (set() if stage in TRAINED else {"training"})
    common = {key: value for key, value in values.items() if key not in elsewhere}
    settings = {key: values["evaluate"][key] for key in AT_INFERENCE if stage != "prepare"}
    return common | {stage: values[stage], "at_inference": settings}


def _is_whole(record: StageRecord, gives: set[str]) -> bool:
    """Every artifact, ``gives`` among them, is there with its manifest; the files are verified where they are read.

    A record without any is of a phone that was not measured: there may be a way to it now.
    """
    if not record.artifacts or not gives <= record.artifacts.keys():  # or of a version that did not leave it
        return False
    try:
        found = {name: Path(artifact.path) / MANIFEST for name, artifact in record.artifacts.items()}
    except IntegrityError:
        return False
    return all(m.is_file() and file_sha256(m) == record.artifacts[name].sha256 for name, m in found.items())


def _as_own(record: StageRecord, recipe: Recipe) -> StageRecord:
    facts = record.facts | {"reused": f"made under recipe {record.recipe_digest}, which says the same of this stage"}
    return record.model_copy(update={"recipe_digest": recipe.digest, "facts": facts})
