import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = str(Path(__file__).parents[1] / "killable.py")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What ``killable.py`` printed of a training left alone, and of one that was told to stop, then killed, then left.

    A step has two parts. SIGTERM comes in the first part of step 2; the kill in the second part of step 3, which is
    the next process's first.
    """

    plans = ["left:run:0", "killed:term:3", "killed:kill:2", "killed:run:0"]
    command = [sys.executable, SCRIPT, str(tmp_path_factory.mktemp("trained")), *plans]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_after_sigterm_and_kill_9_inside_a_step_all_losses_and_weights_are_those_of_one_left_alone(trained):
    left, killed = [line for line in trained if line.startswith("digests")]
    assert left == killed


def test_sigterm_lets_the_step_end_saves_and_says_so(trained):
    told = trained[trained.index("killed:term:3 ended with 0") - 1]
    assert "asked to stop (SIGTERM) at step 2 of 4" in told
    assert "step-00000002" in told


def test_a_kill_loses_only_the_step_it_fell_in_and_resuming_is_told(trained):
    assert "killed:kill:2 ended with -9" in trained
    assert trained[-2].startswith("notes goes on after step 2 of 4")
