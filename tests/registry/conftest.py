"""An empty store, a run of two stages and a bundle that passed, for the tests of this room."""

from pathlib import Path

import candidates
import mlflow_store
import pytest

from mobilevd.artifacts import Artifact, StageRecord, seal, write_json


@pytest.fixture
def store(tmp_path, monkeypatch):
    return mlflow_store.use(tmp_path / "store", monkeypatch)


@pytest.fixture
def recipe():
    return candidates.recipe()


def record(folder: Path, recipe, stage: str, started_at: float, **values) -> StageRecord:
    (folder / stage / "made").mkdir(parents=True)
    (folder / stage / "made" / "weights.safetensors").write_bytes(stage.encode())
    (folder / stage / "curve.png").write_bytes(b"picture")
    own = {"artifacts": {"made": seal(folder / stage / "made")}, "pictures": {"curve": "curve.png"}}
    time = {"started_at": started_at, "seconds": 2.5}
    return StageRecord(stage=stage, recipe_digest=recipe.digest, data_md5="d" * 32, **time, **(own | values))


@pytest.fixture
def records(tmp_path, recipe):
    curves = {"val_loss": [(step, 1.0 / step) for step in range(1, 1302)], "lr": [(1, 0.5)]}
    first = record(tmp_path, recipe, "finetune", 1_700_000_000.25, curves=curves, figures={"val_loss_after": 0.5})
    second = record(tmp_path, recipe, "prune", 1_700_000_003.0, figures={"student.fvd": 812.5})
    return {"finetune": first, "prune": second}


@pytest.fixture
def bundle(tmp_path, recipe):
    def make(verdict="passed", passed=True, recipe_digest=recipe.digest) -> Artifact:
        folder = tmp_path / "bundle"
        rows = [{"metric": "student.fvd", "passed": passed, "limit": 900.0}]
        clip = {"frames": 3, "fps": 7.0, "width": 64, "height": 64}
        write_json(folder / "pipeline.json", {"clip": clip, "motion_bucket": 127})
        write_json(folder / "gates.json", {"verdict": verdict, "recipe": recipe_digest, "rows": rows})
        (folder / "unet").mkdir(exist_ok=True)
        (folder / "unet" / "weights.safetensors").write_bytes(b"w" * 100)
        return seal(folder)

    return make
