import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = str(Path(__file__).parents[1] / "together.py")
WHOLE = (
    "alone:alone:4",
    "parts:parts:4",
    "apart:apart:4",
    "split:split:4",
    "bf16:bf16:2",
    "fp16:fp16:2",
    "rare:rare:4",
)
MUON = ("muon:muon:4", "muonsplit:muonsplit:4")
CUT = ("apart-cut:apart:4", "split-cut:split:4", "muonsplit-cut:muonsplit:4", "split-alone:alone:4")
BACK = "back:back:4"


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What the plans printed; those of ``CUT`` go on from the checkpoint that was left at step 2."""
    folder = tmp_path_factory.mktemp("together")
    before = _run(folder, WHOLE + MUON)
    for name in (plan.split(":")[0] for plan in CUT):
        shutil.copytree(folder / name.split("-")[0], folder / name)
        shutil.rmtree(folder / name / "step-00000004")
    return [before, _run(folder, [*CUT, BACK])]


@pytest.fixture(scope="module")
def curves(told):
    """The curves of every plan."""
    return dict(zip((plan.split(":")[0] for plan in (*WHOLE, *MUON, *CUT)), _lines(told, "curves "), strict=True))


def _lines(told, start):
    lines = [line for done in told for line in done.stdout.splitlines()]
    return [json.loads(line.removeprefix(start)) for line in lines if line.startswith(start)]


def _run(folder, plans):
    command, one_thread = [sys.executable, SCRIPT, str(folder), *plans], os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=one_thread)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("how", ["parts", "apart", "split", "split-alone", "rare"])
def test_two_of_batch_one_have_the_losses_of_one_of_batch_two(curves, how):
    for name, points in curves["alone"].items():
        for (step, want), (_, got) in zip(points, curves[how][name], strict=True):
            rel = 5e-3 if name.startswith("grad_norm") else 2e-3  # Adam's first steps divide by gradients near zero
            assert got == pytest.approx(want, rel=rel, abs=2e-4), (name, step)


@pytest.mark.parametrize("how", ["bf16", "fp16"])
def test_a_split_network_has_nearly_the_losses_of_a_whole_one_in_half_precision(curves, how):
    for name in ("loss_g", "loss_d", "val_rec"):
        for (step, got), (_, want) in zip(curves[how][name], curves["alone"][name], strict=False):
            assert got == pytest.approx(want, rel=2e-2), (name, step)
    for name in ("grad_norm_g", "grad_norm_d"):  # later ones come of steps that rounding turned elsewhere
        assert curves[how][name][0][1] == pytest.approx(curves["alone"][name][0][1], rel=3e-2), name


def test_muon_moves_a_split_network_as_a_whole_one(curves):
    for name, points in curves["muon"].items():
        for (step, want), (_, got) in zip(points, curves["muonsplit"][name], strict=True):
            rel = 5e-3 if name.startswith("grad_norm") else 2e-3
            assert got == pytest.approx(want, rel=rel, abs=2e-4), (name, step)
    assert curves["muon"]["loss_g"][-1] != pytest.approx(curves["alone"]["loss_g"][-1], rel=1e-4)


@pytest.mark.parametrize("how", ["split", "apart", "muonsplit"])
def test_processes_go_on_from_their_checkpoint_with_the_same_bits_on_one_disk_or_several(curves, how):
    assert curves[f"{how}-cut"] == curves[how]


def test_machines_without_a_common_disk_roll_back_and_end_with_the_best_together(told):
    """One process's loss is not a number; without its sum the other one would not know."""
    first, second = _lines(told, "told ")
    assert first["weight"] == second["weight"]
    assert (first["steps"], second["steps"]) == (5, 5)
    assert first["notes"] == [
        "rolled back to step 2; learning rates are 0.5 of the recipe's",
        "leaves the weights of step 2, the best by val without an alarm",
    ]


def test_a_split_network_is_left_as_a_plain_one_in_every_process(told):
    """It can be baked, copied, saved and read; else a stage would fail after its last step."""
    left = _lines(told, "left ")
    assert {(row["kind"], row["hooked"]) for row in left} == {("VideoUNet", False)}
    alone, *others = left
    assert len(others) > len(WHOLE)
    for row in left[1:6]:  # of four steps in fp32: parts; apart and split, in both processes
        assert row["size"] == pytest.approx(alone["size"], rel=1e-4)


def test_the_losses_move_so_that_equality_means_something(curves):
    values = [value for _, value in curves["alone"]["loss_g"]]
    assert max(values) - min(values) > 0.01


def test_two_processes_have_one_bar(told):
    ends = [line for done in told for line in done.stderr.splitlines() if line.startswith(("t: 4/4 (", "t: 2/2 ("))]
    assert len(ends) == len(WHOLE) + len(MUON) + len(CUT)
