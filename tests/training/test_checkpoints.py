import pytest
import torch

from mobilevd.errors import IntegrityError
from mobilevd.training.checkpoints import KEEP, Checkpoints


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


def test_only_the_newest_are_kept(checkpoints):
    for step in range(1, KEEP + 3):
        _save(checkpoints, step)
    assert len(list(checkpoints.folder.iterdir())) == KEEP


def test_another_trainings_checkpoint_is_refused(checkpoints):
    _save(checkpoints, 1)
    with pytest.raises(IntegrityError, match="another training"):
        Checkpoints(checkpoints.folder, "that training").newest()


def test_a_kill_while_writing_leaves_the_older_one(checkpoints, monkeypatch):
    _save(checkpoints, 1)
    monkeypatch.setattr("mobilevd.training.checkpoints.seal", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        _save(checkpoints, 2)
    monkeypatch.undo()
    assert checkpoints.newest().step == 1
    assert _save(checkpoints, 2).is_dir()
    assert checkpoints.newest().step == 2


def test_cleared_checkpoints_are_gone(checkpoints):
    _save(checkpoints, 1)
    checkpoints.clear()
    assert not checkpoints.folder.exists()
