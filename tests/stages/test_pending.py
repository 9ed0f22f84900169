"""When MLflow does not answer, nothing is half-registered, what was made is kept, and it is completed later, once."""

# ruff: noqa: F811  (fixtures that come from the tests of the stage)

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_register import base, recipe, records, store  # noqa: F401
from typer.testing import CliRunner

from mobilevd import cli
from mobilevd.artifacts import file_sha256, verify
from mobilevd.errors import MobileVDError
from mobilevd.registry import acceptance
from mobilevd.stages import pending, register

DOWN = "http://me:hunter2@127.0.0.1:9"  # nothing listens there


@pytest.fixture
def interrupted(recipe, records, tmp_path, monkeypatch):
    """``interrupted(recipe)``: a run that ended while the tracking server was down; its register folder."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MOBILEVD_RUNS", str(tmp_path / "runs"))

    def run(chosen):
        folder = tmp_path / "runs" / "TrainFlow" / "1" / "register"
        with monkeypatch.context() as patched:
            patched.setenv("MLFLOW_TRACKING_URI", DOWN)
            with pytest.raises(MobileVDError, match=r"mobilevd register --resume") as caught:
                register.run(chosen, records(chosen), folder)
        assert "hunter2" not in str(caught.value)
        return folder

    return run


def runs(store) -> list:
    found = store.get_experiment_by_name("mobilevd")
    return [] if found is None else list(store.search_runs([found.experiment_id]))


def test_what_a_server_that_is_down_did_not_take_is_completed_by_one_command(interrupted, store, recipe):
    folder = interrupted(recipe())
    sealed = file_sha256(folder / "bundle" / "manifest.json")
    assert runs(store) == []
    told = CliRunner().invoke(cli.app, ["register", "--resume"], catch_exceptions=False)
    assert told.stdout.startswith("mobilevd version 1 (passed), run ")
    version = store.get_model_version("mobilevd", "1")
    assert version.tags["bundle_sha256"] == sealed
    outer = [run for run in runs(store) if "mlflow.parentRunId" not in run.data.tags]
    assert [run.info.status for run in outer] == ["FINISHED"]
    assert len(runs(store)) == 1 + 8  # the run, and one for each stage
    with pytest.raises(MobileVDError, match="Every run under this folder is registered"):
        pending.newest()


def test_registering_that_broke_in_the_middle_leaves_no_version_and_is_done_once(
    store,
    recipe,
    records,
    tmp_path,
    monkeypatch,
):
    accepted, folder = recipe(), tmp_path / "register"
    with monkeypatch.context() as patched:
        patched.setattr(
            acceptance, "_describe", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        with pytest.raises(MobileVDError, match="No space left"):
            register.run(accepted, records(accepted), folder)
    assert list(store.search_model_versions()) == []
    made = pending.load(folder)
    record = register.resume(folder)
    assert record.facts["version"] == "1"
    assert len([run for run in runs(store) if "mlflow.parentRunId" not in run.data.tags]) == 1
    made.save(folder)  # as if the answer to the last request had been lost
    again = register.resume(folder)
    assert (again.facts["version"], again.facts["run_id"]) == ("1", record.facts["run_id"])
    assert len(list(store.search_model_versions())) == 1


@pytest.fixture
def small_disk(store, tmp_path):
    """The place of the artifacts is a file system of its own, of 16 MB; the database lies elsewhere."""
    place = tmp_path / "store" / "mlruns"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def leave(place, free: int) -> None:
    """Fill the disk but for ``free`` bytes."""
    ballast = place / "ballast"
    ballast.unlink(missing_ok=True)
    with ballast.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, shutil.disk_usage(place).free - free)


def test_a_disk_that_is_full_takes_nothing_and_what_was_made_is_completed_when_there_is_room(
    small_disk, store, recipe, records, tmp_path
):
    accepted, folder = recipe(), tmp_path / "register"
    leave(small_disk, 0)
    with pytest.raises(MobileVDError, match=r"did not take the run; kept(.|\n)*No space left on device"):
        register.run(accepted, records(accepted), folder)
    size = sum(path.stat().st_size for path in (folder / "bundle").rglob("*") if path.is_file())
    leave(small_disk, size // 2)
    with pytest.raises(MobileVDError, match=r"did not take the bundle; kept: the bundle, whole(.|\n)*No space left on"):
        register.resume(folder)
    assert list(store.search_model_versions()) == []
    (small_disk / "ballast").unlink()
    told = CliRunner().invoke(cli.app, ["register", "--resume", str(folder)], catch_exceptions=False)
    assert told.stdout.startswith("mobilevd version 1 (passed), run ")
    version = store.get_model_version("mobilevd", "1")
    verify(small_disk / version.source.partition("mlruns/")[2] / "bundle", version.tags["bundle_sha256"])
    outer = [run for run in runs(store) if "mlflow.parentRunId" not in run.data.tags]
    assert [run.info.status for run in outer] == ["FINISHED"]


def test_recipe_with_a_password_is_asked_for_and_another_one_refused(interrupted, store, recipe):
    secret = recipe(prepare={"data": "https://me:swordfish@host/videos"})
    folder = interrupted(secret)
    everything = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"swordfish" not in everything
    with pytest.raises(MobileVDError, match=r"not the whole of it(.|\n)*--recipe"):
        register.resume(folder)
    with pytest.raises(MobileVDError, match="not the run's recipe"):
        register.resume(folder, recipe(seed=9))
    assert register.resume(folder, secret).facts["version"] == "1"


def test_bundle_that_changed_while_it_waited_is_refused(interrupted, store, recipe):
    folder = interrupted(recipe())
    (folder / "bundle" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"another network")
    with pytest.raises(MobileVDError, match="changed"):
        register.resume(folder)
    assert list(store.search_model_versions()) == []
    with pytest.raises(MobileVDError):
        verify(folder / "bundle")


def test_rejected_run_is_completed_without_a_version(interrupted, store, recipe):
    folder = interrupted(recipe(limit=1.0))
    assert register.resume(folder).facts["version"] == "none"
    assert {run.data.tags.get("verdict") for run in runs(store)} >= {"rejected"}


def test_folder_with_nothing_pending_is_refused(tmp_path):
    with pytest.raises(MobileVDError, match="Nothing is left to register here"):
        register.resume(tmp_path)


def test_what_cannot_work_is_told_before_anything_heavy_is_imported(interrupted, store, recipe, tmp_path, monkeypatch):
    folder = interrupted(recipe())
    (tmp_path / "empty").mkdir()
    (tmp_path / "photo.jpg").write_bytes(b"never read")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DOWN)
    commands = [["register"], ["register", "--resume", str(tmp_path / "empty")]]
    commands += [["generate", str(tmp_path / "photo.jpg"), str(tmp_path / "o.mp4"), "--model", str(tmp_path / "empty")]]
    commands += [["registry", "promote"], ["register", "--resume", str(folder)]]
    words = [sys.executable, str(Path(__file__).with_name("commands.py")), json.dumps(commands)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    plain, nothing, generate, promote, resume = json.loads(done.stdout.splitlines()[-1])
    assert "--resume, to complete" in plain[-1][0]
    assert "Nothing is left to register here" in nothing[-1][0]
    assert generate[0][0].startswith("loading ")
    assert "This folder is no bundle" in generate[-1][0]
    assert promote[0][0].startswith("promoting the newest version of mobilevd")
    assert [line[1] for told in (plain, nothing, generate, promote[:1]) for line in told if line[1]] == []
    assert "Where the ledger" in promote[-1][0]
    assert f"mobilevd register --resume {folder}" in "".join(line[0] for line in resume)
    assert "MLflow does not tell the versions" in resume[-1][0]
    assert "torch" not in resume[-1][1]


def test_command_without_resume_says_that_runs_register_themselves():
    told = CliRunner().invoke(cli.app, ["register"])
    assert "A run registers itself" in str(told.exception)
