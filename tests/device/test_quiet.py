"""Measurements on one machine, or on one phone, come one after the other, and one that was killed leaves no lock."""

import subprocess
import sys

import pytest

from mobilevd.device import quiet

pytestmark = pytest.mark.usefixtures("taken")
MEASURING = """
import sys
import time
from mobilevd.device.quiet import quiet

with quiet("the other", *sys.argv[1:]):
    print("inside", flush=True)
    time.sleep(100)
"""


def started(code, *words):
    return subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("phone", "place"), [([], "this machine"), (["[fe80::1]:5555/a"], "the phone [fe80::1]:5555/a")]
)
def test_a_second_measurement_says_that_it_waits_and_begins_when_the_first_is_dead(monkeypatch, phone, place):
    told = []
    with started(MEASURING, *phone) as other:
        assert other.stdout.readline() == "inside\n"
        monkeypatch.setattr(quiet, "say", lambda line: told.append(line) or other.kill())
        with quiet.quiet("host-cpu", *phone):
            other.kill()
    [line] = told
    assert line.startswith(f"host-cpu waits until another measurement on {place} ends")


def test_the_next_measurement_has_nothing_to_wait_for(monkeypatch):
    told = []
    monkeypatch.setattr(quiet, "say", told.append)
    for _ in range(2):
        with quiet.quiet("host-cpu"):
            pass
    assert told == []


def test_a_phone_waits_for_no_other_phone_nor_for_the_machine(taken):
    with quiet.quiet("adb", "8a1c"):
        assert taken("8a1c")
        assert not taken("77fe")
        assert not taken()
    assert not taken("8a1c")
