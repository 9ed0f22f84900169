"""The whole flow on the smoke recipe: it ends registered; with an impossible gate its stages end rejected."""

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import metaflow_store
import mlflow_store
import pytest
import yaml
from metaflow.exception import MetaflowException

from mobilevd import alerts, params
from mobilevd.registry import versions
from mobilevd.stages import figures, promote

ROOT = Path(__file__).resolve().parents[2]
FLOW, RETRAIN = (str(ROOT / "flows" / f"{name}_flow.py") for name in ("train", "retrain"))
SMOKE, MODEL = ROOT / "recipes" / "smoke.yaml", "mobilevd-smoke"


@pytest.fixture
def store(tmp_path, monkeypatch):
    metaflow_store.use(tmp_path, monkeypatch)
    monkeypatch.setenv("MOBILEVD_RUNS", str(tmp_path / "runs"))
    return mlflow_store.use(tmp_path / "store", monkeypatch)


def recipe_file(folder: Path, **changes) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(SMOKE.read_text()) | changes))
    return path


def command(*words: str, flow: str = FLOW) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, flow, *words], capture_output=True, text=True, timeout=840)


@pytest.mark.slow
def test_smoke_run_ends_registered_and_a_gate_it_cannot_meet_ends_rejected_without_training(store, tmp_path):
    done = command("--config", "recipe", str(SMOKE), "run")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    version = check_registered(store, tmp_path)
    promote.run(MODEL, promote.candidate(MODEL, version, "first of all"), smoke=Path.exists)
    impossible = [{"metric": "student.fvd", "max": -1.0, "why": "no distance is negative"}]
    done = command("--config", "recipe", str(recipe_file(tmp_path, gates=impossible)), "run", flow=RETRAIN)
    check_rejected(store, done, version)
    left = {folder.name for folder in (tmp_path / "runs" / "RetrainFlow").glob("*/*")}
    assert left == {"gate", "register", alerts.LETTERS}


def check_registered(store, home: Path) -> str:
    records = {p.parent.name: json.loads(p.read_text()) for p in (home / "runs").glob("TrainFlow/*/*/record.json")}
    facts = records["register"]["facts"]
    judged = {name: set(record["figures"]) for name, record in records.items() if name not in ("gate", "register")}
    assert set().union(*judged.values()) <= figures.names(params.load(SMOKE))
    assert records["gate"]["facts"]["verdict"] == "passed"
    [version] = store.search_model_versions(f"name='{MODEL}'")
    assert str(version.version) == facts["version"]
    assert version.tags["data_md5"] == records["prepare"]["data_md5"]
    assert records["prune"]["figures"]["prune.blocks_after"] == 7
    assert (Path(facts["bundle"]) / "onnx" / "quantized.onnx").is_file()
    gallery = Path(facts["page"]).read_text()
    assert "data:image/webp;base64," in gallery
    assert "http://" not in gallery.replace("http://www.w3.org", "")
    cards = list((home / ".metaflow").rglob("*.html"))
    assert any("data:image/webp" in card.read_text() for card in cards)
    return facts["version"]


def check_rejected(store, done: subprocess.CompletedProcess, champion: str) -> None:
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "verdict   rejected" in said, said[-3000:]
    assert "FAIL  student.fvd" in said
    assert "Rejected" in said
    assert [str(version.version) for version in store.search_model_versions(f"name='{MODEL}'")] == [champion]
    assert versions.aliases(MODEL) == {"champion": champion}
    runs = store.search_runs([store.get_experiment_by_name(MODEL).experiment_id])
    verdicts = [run.data.tags["verdict"] for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert sorted(verdicts) == ["passed", "rejected"]


@pytest.fixture
def ending(store, monkeypatch):
    """``ending(verdict)``: a training flow before its last step, by the records that it would have by then."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "flows"), *sys.path])
    import train_flow

    def make(verdict: str) -> train_flow.TrainFlow:
        flow = train_flow.TrainFlow(use_cli=False)
        facts = dict.fromkeys(("model", "version", "tracking_uri", "bundle", "page"), "none")
        gates = [{"status": verdict, "metric": "student.fvd", "reason": "the reason"}]
        flow.records = {
            "gate": {"facts": {"verdict": verdict}, "tables": {"gates": gates}, "seconds": 1.0},
            "register": {"facts": facts, "seconds": 1.0},
        }
        flow.watched = nullcontext
        return flow

    return make


def test_the_last_step_fails_for_a_rejected_run_once_it_said_what_was_rejected(ending, capsys):
    with pytest.raises(MetaflowException, match="A gate did not pass"):  # Metaflow ends with code 1
        ending("rejected").end()
    assert "FAIL  student.fvd: the reason" in capsys.readouterr().out


def test_the_last_step_ends_for_a_run_that_passed(ending, capsys):
    ending("passed").end()
    assert "verdict   passed" in capsys.readouterr().out


def test_a_bad_recipe_fails_before_any_step(store, tmp_path):
    done = command("--config", "recipe", str(recipe_file(tmp_path, colour="blue")), "run")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "colour: unknown key, got 'blue'" in said
    assert "Task is starting" not in said


def test_the_flow_shows_its_steps_with_what_they_do(store):
    shown = command("show").stdout
    for sentence in ("Denoising finetuning at low resolution", "Learn which temporal blocks matter", "merge them"):
        assert sentence in shown


def test_a_clip_size_that_does_not_fit_the_base_fails_in_the_first_step(store, tmp_path):
    odd = recipe_file(tmp_path, clip={"frames": 14, "fps": 7.0, "width": 192, "height": 128})
    done = command("--config", "recipe", str(odd), "run")
    assert done.returncode != 0
    assert "multiples of 128" in done.stdout + done.stderr
    assert not list((tmp_path / "runs").rglob("record.json"))
