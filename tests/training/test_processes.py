import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = str(Path(__file__).parents[1] / "together.py")
PLANS = ("alone:alone:4", "parts:parts:4", "data:data:4", "split:split:2", "split:split:4", "split-alone:alone:4")


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What the plans printed; ``split-alone`` goes on from the checkpoint that the split training left at step 2."""
    folder = tmp_path_factory.mktemp("together")
    before = _run(folder, PLANS[:4])
    shutil.copytree(folder / "split", folder / "split-alone")
    return [before, _run(folder, PLANS[4:])]


@pytest.fixture(scope="module")
def curves(told):
    """The curves of every plan."""
    lines = [line for done in told for line in done.stdout.splitlines()]
    found = [json.loads(line.removeprefix("curves ")) for line in lines if line.startswith("curves ")]
    return dict(zip(("alone", "parts", "data", "half", "split", "split-alone"), found, strict=True))


def _run(folder, plans):
    command, one_thread = [sys.executable, SCRIPT, str(folder), *plans], os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=one_thread)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("how", ["parts", "data", "split", "split-alone"])
def test_two_of_batch_one_have_the_losses_of_one_of_batch_two(curves, how):
    for name, points in curves["alone"].items():
        for (step, want), (_, got) in zip(points, curves[how][name], strict=True):
            rel = 5e-3 if name.startswith("grad_norm") else 2e-3  # Adam's first steps divide by gradients near zero
            assert got == pytest.approx(want, rel=rel, abs=2e-4), (name, step)


def test_a_split_training_goes_on_from_its_checkpoint_with_the_same_bits(curves):
    assert {name: points[: len(curves["half"][name])] for name, points in curves["split"].items()} == curves["half"]


def test_the_losses_move_so_that_equality_means_something(curves):
    values = [value for _, value in curves["alone"]["loss_g"]]
    assert max(values) - min(values) > 0.01


def test_two_processes_have_one_bar(told):
    ends = [line for done in told for line in done.stderr.splitlines() if line.startswith(("t: 4/4 (", "t: 2/2 ("))]
    assert len(ends) == len(PLANS)
