"""When data moves, the pin lies where the recipe reads it before the event is published; failures are told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import receiver
import seaweed
import yaml

from mobilevd import remote

ROOT = Path(__file__).resolve().parents[2]
PIN = b"outs:\n- {md5: 0123456789abcdef0123456789abcdef.dir, path: data}\n"


@pytest.fixture
def heard():
    """``(address, events)``: a receiver of events, and each with what lay at its pin's address when it came."""
    events = []

    def take(_, body):
        told = json.loads(body)
        events.append((told["name"], told["payload"]["data_md5"]))

    with receiver.listening(take) as address:
        yield address, events


def announce(folder: Path, pin: str, webhook: str) -> subprocess.CompletedProcess:
    recipe = {"from": "recipes/smoke.yaml", "name": "moved", "prepare": {"data": "s3://bucket/dvc", "pin": pin}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "data.dvc").write_bytes(PIN)
    variables = {"METAFLOW_ARGO_EVENTS_WEBHOOK_URL": webhook, "METAFLOW_SERVICE_RETRY_COUNT": "1"}
    command = [sys.executable, str(ROOT / "flows" / "announce.py"), "recipe.yaml"]
    return subprocess.run(command, cwd=folder, env=os.environ | variables, capture_output=True, text=True, timeout=120)


def test_the_pin_is_moved_and_the_event_is_published(tmp_path, monkeypatch, heard):
    seaweed.use(monkeypatch)
    pin = f"s3://bucket/{tmp_path.name}/data.dvc"
    done = announce(tmp_path, pin, heard[0])
    assert done.returncode == 0, done.stderr
    assert heard[1] == [("mobilevd-data", "0123456789abcdef0123456789abcdef.dir")]
    assert remote.read(pin) == PIN


def test_an_event_that_nobody_takes_and_a_pin_that_cannot_move_are_errors(tmp_path, monkeypatch, heard):
    seaweed.use(monkeypatch)
    refused = announce(tmp_path, f"s3://bucket/{tmp_path.name}/data.dvc", "http://127.0.0.1:1")
    assert (refused.returncode, "The event was not taken" in refused.stderr) == (1, True)
    unmoved = announce(tmp_path, f"s3://bucket/{tmp_path.name}/data.dvc", "")
    assert (unmoved.returncode, "Nobody would hear" in unmoved.stderr) == (1, True)
    assert heard[1] == []
