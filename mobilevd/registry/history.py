"""Runs that were written down, found again: by recipe and data, and stage by stage.

**Keeps** only runs that were written down whole are found (``tests/stages/test_retrain.py``).
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mobilevd.artifacts import StageRecord
from mobilevd.params import Recipe
from mobilevd.registry import acceptance, tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KEPT = "every run"
AT_MOST = 1000


@dataclass(frozen=True)
class Judged:
    """A whole run of a recipe on data: its verdict, and the version that came of it, if one did."""

    run_id: str
    verdict: str
    version: str | None


def same(recipe: Recipe, data_md5: str) -> Judged | None:
    """The newest whole run of this recipe on this data that left what it should; None where there is none.

    A passed run without its version broke between the two, and does not count. Errors: MobileVDError.
    """
    client = tracking.connect()
    with tracking.told("MLflow does not tell its runs", kept=KEPT):
        asked = f"tags.recipe_digest = '{recipe.digest}' and tags.data_md5 = '{data_md5}'"
        for run in _runs(client, recipe.registry.experiment, f"{asked} and attributes.status = 'FINISHED'"):
            verdict = run.data.tags.get("verdict", "")
            found = client.search_model_versions(f"run_id='{run.info.run_id}'")
            version = str(found[0].version) if found else None
            if verdict == acceptance.REJECTED or version is not None:
                return Judged(run.info.run_id, verdict, version)
    return None


def records(run_id: str) -> dict[str, StageRecord]:
    """What every stage of a run left, by the stage's name, as the run wrote it down; of a run that is not the
    project's, nothing. Errors: MobileVDError."""
    client = tracking.connect()
    with tracking.told("MLflow does not tell the run's stages", kept=KEPT), tempfile.TemporaryDirectory() as aside:
        experiment = client.get_run(run_id).info.experiment_id
        stages = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'", max_results=AT_MOST)
        found = {}
        for run in (one for one in stages if "stage" in one.data.tags):
            file = client.download_artifacts(run.info.run_id, "record.json", _new(aside, run.info.run_id))
            found[run.info.run_name] = StageRecord.model_validate_json(Path(file).read_bytes())
    return found


def _runs(client: "MlflowClient", experiment: str, asked: str) -> list["Run"]:
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    return client.search_runs(
        [found.experiment_id], asked, max_results=AT_MOST, order_by=["attributes.start_time DESC"]
    )


def _new(folder: str, name: str) -> str:
    made = Path(folder) / name
    made.mkdir()
    return str(made)
