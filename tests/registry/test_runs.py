"""What is written to MLflow, what never is, and that a version means an accepted bundle that lies in the store."""

import json
import math
import os
import shutil
from pathlib import Path

import candidates
import mlflow_store
import pytest

from mobilevd.artifacts import Artifact, StageRecord, file_sha256, seal, verify, write_json
from mobilevd.errors import IntegrityError, MobileVDError
from mobilevd.params import check
from mobilevd.registry import acceptance, runs, tracking
from mobilevd.secrecy import sanitised


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


def nested(store, run_id: str) -> list:
    experiment = store.get_run(run_id).info.experiment_id
    found = store.search_runs([experiment], f"tags.mlflow.parentRunId = '{run_id}'", order_by=["start_time ASC"])
    return list(found)


def versions(store) -> list:
    return list(store.search_model_versions())


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


def test_a_passed_bundle_becomes_a_version_whose_source_holds_it(store, recipe, records, bundle):
    run_id = runs.log_run(recipe, records, "passed", [])
    shipped = bundle()
    first = acceptance.register(recipe, run_id, shipped, {"data_md5": "d" * 32, "git_commit": "unknown"})
    second = acceptance.register(recipe, run_id, shipped, {})
    assert (first, second) == ("1", "2")
    version = store.get_model_version("mobilevd", first)
    expected = {"verdict": "passed", "recipe_digest": recipe.digest, "bundle_sha256": shipped.sha256}
    expected["mlmodel_sha256"] = file_sha256(Path(version.source.removeprefix("file://")) / "MLmodel")
    assert version.tags == expected | {"data_md5": "d" * 32, "git_commit": "unknown"}
    assert (version.run_id, version.status) == (run_id, "READY")
    verify(Path(version.source.removeprefix("file://")) / "bundle", shipped.sha256)


def test_a_rejected_run_is_written_down_and_has_no_version(store, recipe, records, bundle):
    run_id = runs.log_run(recipe, records, "rejected", [])
    shipped = bundle(verdict="rejected", passed=False)
    acceptance.reject(run_id, shipped)
    tags = store.get_run(run_id).data.tags
    assert (tags["verdict"], tags["bundle"], tags["bundle_sha256"]) == ("rejected", shipped.uri, shipped.sha256)
    assert len(nested(store, run_id)) == 2
    assert versions(store) == []


@pytest.mark.parametrize(
    "report",
    [
        {"verdict": "rejected", "passed": False},
        {"verdict": "passed", "passed": False},
        {"verdict": "passed", "recipe_digest": "another"},
    ],
)
def test_a_report_that_does_not_say_passed_for_this_recipe_is_refused(store, recipe, records, bundle, report):
    run_id = runs.log_run(recipe, records, "passed", [])
    with pytest.raises(MobileVDError, match="Only a bundle that passed"):
        acceptance.register(recipe, run_id, bundle(**report), {})
    assert versions(store) == []


def test_a_run_that_was_rejected_takes_no_passed_bundle(store, recipe, records, bundle):
    run_id = runs.log_run(recipe, records, "rejected", [])
    with pytest.raises(MobileVDError, match="did not pass"):
        acceptance.register(recipe, run_id, bundle(), {})
    assert versions(store) == []


@pytest.mark.parametrize("stored", [912.5, math.nan, None])
def test_figures_in_the_store_that_do_not_pass_are_refused(store, recipe, records, bundle, stored):
    told = {name: value for name, value in {"student.fvd": stored}.items() if value is not None}
    changed = {"prune": records["prune"].model_copy(update={"figures": told})}
    run_id = runs.log_run(recipe, records | changed, "passed", [])
    with pytest.raises(MobileVDError, match=r"figures in MLflow do not pass(.|\n)*student\.fvd"):
        acceptance.register(recipe, run_id, bundle(), {})
    assert versions(store) == []


def test_report_of_other_gates_is_refused(store, recipe, records, bundle):
    run_id = runs.log_run(recipe, records, "passed", [])
    shipped = bundle()
    rows = [{"metric": "student.motion", "passed": True, "limit": 0.5}]
    write_json(shipped.path / "gates.json", {"verdict": "passed", "recipe": recipe.digest, "rows": rows})
    with pytest.raises(MobileVDError, match="not of the recipe's gates"):
        acceptance.register(recipe, run_id, seal(shipped.path), {})
    assert versions(store) == []


def test_a_bundle_that_changed_is_refused(store, recipe, records, bundle):
    run_id = runs.log_run(recipe, records, "passed", [])
    shipped = bundle()
    (shipped.path / "unet" / "weights.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(IntegrityError, match=r"unet/weights\.safetensors"):
        acceptance.register(recipe, run_id, shipped, {})
    assert versions(store) == []


def test_a_store_that_damages_the_bundle_gets_no_version(store, recipe, records, bundle):
    run_id = runs.log_run(recipe, records, "passed", [])
    shipped = bundle()
    acceptance.register(recipe, run_id, shipped, {})
    stored = Path(store.get_run(run_id).info.artifact_uri.removeprefix("file://")) / "model" / "bundle"
    (stored / "unet" / "stranger.safetensors").write_bytes(b"another run's")
    with pytest.raises(IntegrityError, match="stranger"):
        acceptance.register(recipe, run_id, shipped, {})
    assert [version.version for version in versions(store)] in ([1], ["1"])


def test_a_store_without_room_is_a_clear_error_that_says_what_is_kept(store, recipe, records, bundle, tmp_path):
    run_id = runs.log_run(recipe, records, "passed", [])
    shipped = bundle()
    shutil.rmtree(tmp_path / "store" / "mlruns")
    (tmp_path / "store" / "mlruns").write_text("no folder can be made here")
    with pytest.raises(MobileVDError) as caught:
        acceptance.register(recipe, run_id, shipped, {})
    assert shipped.uri in str(caught.value)
    assert "no version was created" in str(caught.value)
    assert versions(store) == []
    verify(shipped.path, shipped.sha256)


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
