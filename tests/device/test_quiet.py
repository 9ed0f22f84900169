"""Measurements on one machine, or on one phone, come one after the other, and one that was killed leaves no lock."""

import os
import subprocess
import sys

import living
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
CHILD = """
import sys
import time
from mobilevd.device.quiet import end_with

end_with(int(sys.argv[1]))
print("computing", flush=True)
time.sleep(100)
"""
PARENT = f"""
import os
import subprocess
import sys

with subprocess.Popen([sys.executable, "-c", {CHILD!r}, str(os.getpid())], stdout=subprocess.PIPE, text=True) as child:
    print(child.stdout.readline().strip(), child.pid, flush=True)
    child.wait()
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


@pytest.mark.skipif(sys.platform != "linux", reason="no other system ends a process with its parent")
def test_a_process_ends_with_the_one_that_started_it_however_that_ends():
    with started(PARENT) as parent:
        said, child = parent.stdout.readline().split()
        assert said == "computing"
        parent.kill()
    assert living.ends(child)


@pytest.mark.skipif(sys.platform != "linux", reason="no other system ends a process with its parent")
def test_a_process_whose_parent_had_ended_before_it_could_ask_does_not_begin():
    with started(CHILD, str(os.getppid())) as orphan:
        assert orphan.stdout.read() == ""
    assert orphan.returncode == 1
