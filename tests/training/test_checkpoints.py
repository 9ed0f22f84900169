import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mobilevd.errors import IntegrityError, RecipeError
from mobilevd.training.checkpoints import Checkpoints, NotWrittenError


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", "this training")


def _save(checkpoints, step):
    return checkpoints.save(step, {"network": {"w": torch.full((3,), float(step))}}, {"note": step})


def test_a_saved_checkpoint_is_read_back_equal(checkpoints):
    _save(checkpoints, 4)
    found = checkpoints.newest()
    assert (found.step, found.state) == (4, {"note": 4})
    assert torch.equal(found.tensors["network"]["w"], torch.full((3,), 4.0))


def test_nothing_saved_is_none(checkpoints):
    assert checkpoints.newest() is None


def test_the_newest_intact_one_is_found_behind_a_damaged_and_an_unfinished_one(checkpoints):
    _save(checkpoints, 1)
    damaged = _save(checkpoints, 2)
    weights = damaged / "network.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    unfinished = checkpoints.folder / "step-00000003.part"
    unfinished.mkdir()
    assert checkpoints.newest().step == 1


def test_the_last_the_best_and_the_last_healthy_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, "this training", keep_last=2)
    for step, score in enumerate((5.0, 1.0, 4.0, 0.5, 2.0, 0.7), 1):  # the lowest ones during an alarm
        checkpoints.save(step, {}, {}, score, healthy=step in (2, 3))
    assert _kept(tmp_path) == [2, 3, 5, 6]
    assert checkpoints.best().step == 2
    assert checkpoints.newest().step == 6
    assert checkpoints.newest(healthy=True).step == 3


@pytest.mark.parametrize(("keep_last", "synced"), [(1, 3), (2, 2)])
def test_before_old_ones_go_one_that_stays_would_outlive_a_power_cut(tmp_path, monkeypatch, keep_last, synced):
    checkpoints, done = Checkpoints(tmp_path, "this training", keep_last, keep_best=False), []
    for step in (1, 2):
        checkpoints.save(step, {"network": {"w": torch.ones(1)}}, {})
    monkeypatch.setattr("os.fsync", lambda handle: done.append((os.fstat(handle).st_ino, _kept(tmp_path))))
    checkpoints.save(3, {"network": {"w": torch.ones(1)}}, {})
    folder = tmp_path / f"step-{synced:08d}"
    assert {inode for inode, _ in done} == {path.stat().st_ino for path in (tmp_path, folder, *folder.iterdir())}
    assert all(kept[-1] == 3 and len(kept) == keep_last + 1 for _, kept in done)


def test_the_best_is_not_kept_when_the_recipe_does_not_ask(tmp_path):
    checkpoints = Checkpoints(tmp_path, "this training", keep_last=3, keep_best=False)
    for step in range(1, 6):
        checkpoints.save(step, {}, {}, score=float(step))
    assert _kept(tmp_path) == [3, 4, 5]


def _kept(folder):
    return sorted(int(path.name.removeprefix("step-")) for path in folder.iterdir())


@pytest.mark.parametrize("damage", ["flip", "missing", "state", "manifest"])
def test_a_damaged_one_is_passed_over_and_named(checkpoints, damage):
    _save(checkpoints, 1)
    newest = _save(checkpoints, 2)
    path = newest / {"flip": "network.safetensors", "missing": "network.safetensors"}.get(damage, f"{damage}.json")
    if damage == "missing":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert checkpoints.newest().step == 1
    assert len(checkpoints.passed_over) == 1
    assert checkpoints.passed_over[0].startswith("step-00000002: ")
    assert _save(checkpoints, 3).is_dir()


def test_when_all_are_damaged_nothing_starts_afresh(checkpoints):
    (_save(checkpoints, 1) / "network.safetensors").unlink()
    with pytest.raises(IntegrityError, match="No checkpoint of this training is intact"):
        checkpoints.newest()


def test_a_folder_to_resume_from_that_is_not_there_or_empty_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, why in [("nowhere", "no such folder"), ("empty", "no checkpoint in it")]:
        with pytest.raises(RecipeError, match=why):
            Checkpoints(tmp_path / "own", "this training", resume=tmp_path / name)


def test_checkpoints_from_elsewhere_are_gone_on_from_until_there_are_own_ones(checkpoints, tmp_path):
    _save(checkpoints, 4)
    resumed = Checkpoints(tmp_path / "own", "this training", resume=checkpoints.folder)
    assert resumed.newest().step == 4
    _save(resumed, 5)
    assert resumed.newest().step == 5
    resumed.clear()
    assert checkpoints.newest().step == 4


FULL = """
import resource, sys, torch
from pathlib import Path
from mobilevd.training.checkpoints import Checkpoints, NotWrittenError

checkpoints = Checkpoints(Path(sys.argv[1]), "this training")
checkpoints.save(1, {"network": {"w": torch.ones(10)}}, {})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    checkpoints.save(2, {"network": {"w": torch.ones(10_000)}}, {})
except NotWrittenError as error:
    print(error, sorted(p.name for p in Path(sys.argv[1]).iterdir()), checkpoints.newest().step)
"""


def test_a_disk_that_takes_no_more_leaves_the_older_one_and_no_rest(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path / "c"], capture_output=True, text=True, check=True)
    assert "The checkpoint of step 2 could not be written" in done.stdout
    assert done.stdout.endswith("['step-00000001'] 1\n")


def test_another_trainings_checkpoint_is_refused(checkpoints):
    _save(checkpoints, 1)
    with pytest.raises(IntegrityError, match="another training"):
        Checkpoints(checkpoints.folder, "that training").newest()


def test_a_kill_while_writing_leaves_the_older_one(checkpoints, monkeypatch):
    _save(checkpoints, 1)
    monkeypatch.setattr("mobilevd.training.checkpoints.seal", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        _save(checkpoints, 2)
    monkeypatch.undo()
    assert checkpoints.newest().step == 1
    assert _save(checkpoints, 2).is_dir()
    assert checkpoints.newest().step == 2


@pytest.mark.parametrize("at", [".part", ""])
def test_a_kill_while_a_step_is_saved_again_loses_neither_it_nor_the_way_on(checkpoints, monkeypatch, at):
    """As after a roll-back: the first one is moved aside, then the second one gets its name."""
    _save(checkpoints, 1)
    rename = Path.rename

    def killed(self, target):
        if self.suffix == at:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(1, {}, {"note": "again"})
    monkeypatch.undo()
    assert checkpoints.newest().state == {"note": 1}
    checkpoints.save(1, {}, {"note": "again"})
    assert checkpoints.newest().state == {"note": "again"}
    assert _kept(checkpoints.folder) == [1]


def test_what_a_step_replaced_never_comes_back_though_a_kill_left_it(checkpoints):
    former = checkpoints.folder / "step-00000002.former"
    shutil.copytree(_save(checkpoints, 2), former)
    _save(checkpoints, 2)
    assert not former.exists()
    shutil.copytree(_save(checkpoints, 2), former)
    checkpoints.drop_after(1)
    assert checkpoints.newest() is None


def test_a_disk_that_fills_up_while_a_step_is_saved_again_leaves_the_first_one(checkpoints, monkeypatch):
    _save(checkpoints, 1)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("mobilevd.training.checkpoints.seal", full)
    with pytest.raises(NotWrittenError, match="No space left"):
        _save(checkpoints, 1)
    assert checkpoints.newest().step == 1


def test_cleared_checkpoints_are_gone(checkpoints):
    _save(checkpoints, 1)
    checkpoints.clear()
    assert not checkpoints.folder.exists()
