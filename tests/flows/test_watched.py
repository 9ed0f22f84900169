"""What is written of a task that failed holds nothing that opens a door: its lines, its letter, the alert."""

import json
import subprocess
import sys
from pathlib import Path

import metaflow_store
import pytest
import receiver

from mobilevd import alerts, journal

FLOW = str(Path(__file__).parents[1] / "leaking_flow.py")
HIDDEN = ("s3cretvalue123", "planted")


@pytest.mark.slow
def test_a_failed_tasks_lines_letter_and_alert_hold_no_secret(tmp_path, monkeypatch):
    metaflow_store.use(tmp_path, monkeypatch)
    for name, value in {"QAIHUB_API_TOKEN": HIDDEN[0], "MOBILEVD_RUNS": str(tmp_path / "runs")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(journal.FORMAT, "json")
    heard = []
    with receiver.listening(lambda _, body: heard.append(body.decode())) as address:
        monkeypatch.setenv(alerts.WEBHOOK, address)
        done = subprocess.run([sys.executable, FLOW, "run"], capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    whole = done.stdout + done.stderr
    lines = [line[line.index("{") :] for line in whole.splitlines() if '"event": "' in line]
    events = [json.loads(line)["event"] for line in lines]
    assert events == ["stage began", "stage failed", "dead letter"], whole[-3000:]
    [letter], [told] = alerts.letters(str(tmp_path / "runs")), heard
    assert letter["error"] == "OSError: 401 token=*** for https://host/x"
    for written in (*lines, json.dumps(letter), told):
        assert [secret for secret in HIDDEN if secret in written] == []
