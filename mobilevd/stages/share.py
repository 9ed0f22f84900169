"""Share: a pinned folder of videos and photographs → a plan that says which file is in which shard.

**Keeps** nothing is written before the data is known to be the pinned one, nor of files that cannot be enough
(``tests/stages/test_prepare.py``).
"""

import time
from pathlib import Path

from mobilevd import remote
from mobilevd.artifacts import Artifact, StageRecord, seal
from mobilevd.params import Recipe
from mobilevd.video import pinned, quota, shards
from mobilevd.video.shards import Shard

STAGE, PLAN = "share", "plan"


def run(recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path) -> StageRecord:
    """Plan the shards of the recipe's data.

    Errors: DataError when the folder drifted from its pin or is not there, too many files are copies of others, or the
    files cannot give the clips that the recipe asks for.
    """
    started_at, settings = time.time(), recipe.prepare
    files, md5 = pinned.files(settings)
    planned = shards.plan(files, settings, brought=remote.is_remote(settings.data))
    quota.check_plan(settings, shards.taken(planned))
    folder = Path(workdir).resolve() / PLAN
    shards.write(planned, settings, folder)
    return StageRecord(
        stage=STAGE,
        recipe_digest=recipe.digest,
        data_md5=md5,
        artifacts={PLAN: seal(folder)},
        figures={f"{STAGE}.files": len(planned), f"{STAGE}.shards": shards.count(planned, settings)},
        facts={"data": f"{settings.data}, " + (f"as {settings.pin}" if settings.pin else "unpinned")},
        started_at=started_at,
        seconds=time.time() - started_at,
    )


def numbers(shared: StageRecord) -> list[int]:
    """The numbers of the shards that were planned."""
    return list(range(int(shared.figures[f"{STAGE}.shards"])))


def shard(shared: StageRecord, number: int) -> Shard:
    """One shard of the plan, wherever that lies. Errors: IntegrityError."""
    files = int(shared.figures[f"{STAGE}.files"])
    return shards.read(plan(shared).read(shards.file(number)), number, len(numbers(shared)), files)


def plan(shared: StageRecord) -> Artifact:
    """The sealed plan."""
    return shared.artifacts[PLAN]
