"""The scheduled flow: TrainFlow's stages, or rest in seconds when it is not its turn; a failure to begin is told."""

import json
import subprocess
import sys
import time
from pathlib import Path

import metaflow_store
import mlflow_store
import pytest
import receiver
import yaml

from mobilevd import alerts, params
from mobilevd.registry import versions
from mobilevd.stages import retrain

ROOT = Path(__file__).resolve().parents[2]
FLOW = str(ROOT / "flows" / "retrain_flow.py")
SMOKE = ROOT / "recipes" / "smoke.yaml"


@pytest.fixture
def store(tmp_path, monkeypatch):
    metaflow_store.use(tmp_path, monkeypatch)
    monkeypatch.setenv("MOBILEVD_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv(versions.LEDGER, raising=False)
    return mlflow_store.use(tmp_path / "store", monkeypatch)


def command(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, FLOW, *words], capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_a_run_beside_another_rests_and_trains_nothing(store, tmp_path):
    assert retrain.turns(params.load(SMOKE)).take("RetrainFlow/1") is None
    began = time.monotonic()
    done = command("--config", "recipe", str(SMOKE), "run")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "nothing to do: RetrainFlow/1 is at it" in done.stdout
    assert not (tmp_path / "runs").exists()
    assert time.monotonic() - began < 120


@pytest.mark.slow
def test_a_run_that_cannot_begin_leaves_a_dead_letter_and_tells_the_webhook(store, tmp_path, monkeypatch):
    values = yaml.safe_load(SMOKE.read_text()) | {"prepare": {"data": str(tmp_path / "nowhere")}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    heard = []
    with receiver.listening(lambda _, body: heard.append(json.loads(body))) as address:
        monkeypatch.setenv(alerts.WEBHOOK, address)
        done = command("--config", "recipe", "recipe.yaml", "run")
    assert done.returncode != 0
    [letter] = alerts.letters(str(tmp_path / "runs"))
    assert (letter["attempts"], "nowhere" in letter["error"]) == (1, True)
    assert letter["again"].startswith("python flows/retrain_flow.py resume --origin-run-id ")
    [told] = heard
    assert told["text"].startswith(f"{letter['task']} failed for good: StageFailed")


def test_the_flow_has_the_stages_of_the_training_flow_in_their_order(store):
    shown = command("output-dot").stdout
    trained = subprocess.run(
        [sys.executable, str(ROOT / "flows" / "train_flow.py"), "output-dot"], capture_output=True, text=True
    ).stdout
    edges = {line.strip() for line in trained.splitlines() if "->" in line and "start" not in line}
    assert len(edges) > 10
    assert edges <= {line.strip() for line in shown.splitlines()}
