"""A stage that was finished and not stored is not run again; one that was stored is, when it is asked for by name."""

import subprocess
import sys
from pathlib import Path

import metaflow_store
import pytest

FLOW = str(Path(__file__).parents[1] / "killed_flow.py")


def command(*words: str) -> str:
    done = subprocess.run([sys.executable, FLOW, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_killed_tasks_finished_record_is_taken_and_a_stored_one_is_made_again_by_resume_step(tmp_path, monkeypatch):
    metaflow_store.use(tmp_path, monkeypatch)
    for time, words in ((1, ["run"]), (2, ["resume", "work"])):
        told = command(*words, "--with", "retry:minutes_between_retries=0")
        assert "Task is starting (retry)" in told
        assert "work was finished before, and its record is taken as it is" in told
        assert f"the record is of time {time}.0" in told
