"""What is written to MLflow, and what never is."""

import json
import os
from pathlib import Path

import candidates
import pytest

from mobilevd.artifacts import StageRecord
from mobilevd.errors import IntegrityError, MobileVDError
from mobilevd.params import check
from mobilevd.registry import acceptance, runs, tracking
from mobilevd.secrecy import sanitised


def nested(store, run_id: str) -> list:
    experiment = store.get_run(run_id).info.experiment_id
    found = store.search_runs([experiment], f"tags.mlflow.parentRunId = '{run_id}'", order_by=["start_time ASC"])
    return list(found)


def test_default_store_lies_in_the_project_and_the_environment_wins(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = Path(tracking.__file__).resolve().parents[2]
    assert tracking.uri() == f"sqlite:///{root}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://there")
    assert tracking.uri() == "https://there"


def test_stages_are_nested_in_order_with_their_true_times(store, recipe, records):
    run_id = runs.log_run(recipe, records, "passed", [])
    stages = nested(store, run_id)
    assert [run.info.run_name for run in stages] == ["finetune", "prune"]
    assert [run.info.start_time for run in stages] == [1_700_000_000_250, 1_700_000_003_000]
    assert [run.info.end_time for run in stages] == [1_700_000_002_750, 1_700_000_005_500]
    outer = store.get_run(run_id)
    assert outer.info.start_time == 1_700_000_000_250
    assert {run.info.status for run in [outer, *stages]} == {"FINISHED"}


def test_curves_figures_and_parameters_come_back_as_they_were(store, recipe, records):
    run_id = runs.log_run(recipe, records, "passed", [])
    outer, finetune = store.get_run(run_id), nested(store, run_id)[0]
    history = store.get_metric_history(finetune.info.run_id, "val_loss")
    assert [(point.step, point.value) for point in history] == records["finetune"].curves["val_loss"]
    assert outer.data.metrics == {"finetune.val_loss_after": 0.5, "student.fvd": 812.5}
    assert finetune.data.metrics["seconds"] == 2.5
    assert outer.data.params["funnel.adversarial.sigmas"] == "[2.27, 70.5, 700.0]"
    assert outer.data.params["gates.0.metric"] == "student.fvd"
    assert outer.data.tags["recipe_digest"] == recipe.digest


def test_clips_are_a_dataset_with_the_digest_that_dvc_pins(store, recipe, records):
    pinned = {n: r.model_copy(update={"data_md5": "d" * 32 + ".dir"}) for n, r in records.items()}
    [given] = store.get_run(runs.log_run(recipe, pinned, "passed", [])).inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("data", "d" * 32 + ".dir")
    assert json.loads(given.dataset.source) == {"uri": "data"}
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]


def test_every_value_of_a_recipe_is_a_parameter(store, recipe, records):
    def leaves(value) -> int:
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            value = dict(enumerate(value))
        return sum(map(leaves, value.values())) if isinstance(value, dict) else 1

    params = store.get_run(runs.log_run(recipe, records, "passed", [])).data.params
    assert len(params) == leaves(recipe.model_dump(mode="json"))


def test_pictures_pages_and_records_are_kept(store, recipe, records, tmp_path):
    page, docs = tmp_path / "gallery.html", tmp_path / "data_docs"
    page.write_text("<p>gallery</p>")
    docs.mkdir()
    (docs / "index.html").write_text("<p>docs</p>")
    run_id = runs.log_run(recipe, records, "passed", [page, docs])
    assert {item.path for item in store.list_artifacts(run_id, "pages")} == {"pages/gallery.html", "pages/data_docs"}
    stage = nested(store, run_id)[0].info.run_id
    assert [item.path for item in store.list_artifacts(stage, "pictures")] == ["pictures/curve.png"]
    told = json.loads(Path(store.download_artifacts(stage, "record.json")).read_text())
    assert StageRecord(**told) == records["finetune"]


def test_artifacts_lie_beside_the_database_whatever_the_working_directory(
    store, recipe, records, tmp_path, monkeypatch
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run_id = runs.log_run(recipe, records, "passed", [])
    assert store.get_run(run_id).info.artifact_uri.startswith((tmp_path / "store" / "mlruns").as_uri())
    assert list(elsewhere.iterdir()) == []


def test_a_run_that_could_not_be_written_down_ends_as_failed(store, recipe, records):
    gone = records["prune"].model_copy(update={"pictures": {"curve": "gone.png"}})
    with pytest.raises(IntegrityError, match="A picture of prune is gone"):
        runs.log_run(recipe, records | {"prune": gone}, "passed", [])
    experiment = store.get_experiment_by_name("mobilevd").experiment_id
    status = {run.info.run_name: run.info.status for run in store.search_runs([experiment])}
    assert status == {f"tiny {recipe.digest[:8]}": "FAILED", "finetune": "FINISHED", "prune": "FAILED"}


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("https://user:pa@ss@host/x", "https://host/x"),
        (
            "postgresql+psycopg2://me:hunter2@db:5432/m and s3://bucket/a",
            "postgresql+psycopg2://db:5432/m and s3://bucket/a",
        ),
        ("num_memory_tokens: 4, mail me@host", "num_memory_tokens: 4, mail me@host"),
    ],
)
def test_credentials_are_taken_out_of_addresses_and_nothing_else(written, kept):
    assert sanitised(written) == kept


def test_no_password_and_no_environment_reaches_the_store(store, records, bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "swordfish-of-the-environment")
    secret = "https://me:hunter2@host/videos"
    recipe = check(candidates.SECTIONS | {"prepare": {"data": secret}})
    told = records | {"finetune": records["finetune"].model_copy(update={"facts": {"data": secret}})}
    run_id = runs.log_run(recipe, told, "passed", [], {"from": secret})
    acceptance.register(recipe, run_id, bundle(recipe_digest=recipe.digest), {"from": secret})
    everything = b"".join(path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert b"https://host/videos" in everything
    assert b"hunter2" not in everything
    assert os.environ["SOME_TOKEN"].encode() not in everything


def test_an_error_of_the_store_shows_no_password(monkeypatch, tmp_path, recipe, records):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9")
    with pytest.raises(MobileVDError) as caught:
        runs.log_run(recipe, records, "passed", [])
    assert "127.0.0.1:9" in str(caught.value)
    assert "hunter2" not in str(caught.value)
