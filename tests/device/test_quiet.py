"""Measurements on one machine come one after the other, and one that was killed leaves no lock."""

import subprocess
import sys
import tempfile

import pytest

from mobilevd.device import quiet

MEASURING = """
import time
from mobilevd.device.quiet import quiet

with quiet("the other"):
    print("inside", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def of_its_own(tmp_path, monkeypatch):
    """A temporary folder of this test, for its processes too."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_a_second_measurement_says_that_it_waits_and_begins_when_the_first_is_dead(monkeypatch):
    told = []
    with subprocess.Popen([sys.executable, "-c", MEASURING], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "inside\n"
        monkeypatch.setattr(quiet, "say", lambda line: told.append(line) or other.kill())
        with quiet.quiet("host-cpu"):
            other.kill()
    [line] = told
    assert line.startswith("host-cpu waits until another measurement on this machine ends")


def test_the_next_measurement_has_nothing_to_wait_for(monkeypatch):
    told = []
    monkeypatch.setattr(quiet, "say", told.append)
    for _ in range(2):
        with quiet.quiet("host-cpu"):
            pass
    assert told == []
