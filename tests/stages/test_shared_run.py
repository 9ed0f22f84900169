"""A stage that dies on one machine goes on at its checkpoint on another; its record names what the store holds."""

import shutil
import time
from pathlib import Path

import pytest
import seaweed
import torch

from mobilevd import remote
from mobilevd.artifacts import StageRecord, seal
from mobilevd.registry import runs
from mobilevd.stages import shared_run
from mobilevd.stages.shared_run import SharedRun
from mobilevd.training.checkpoints import Checkpoints


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """``machine(name)``: from here on the code runs on a machine with a disk of its own."""
    seaweed.use(monkeypatch)
    monkeypatch.setattr(shared_run, "LOOK_EVERY_S", 0.05)
    return lambda name: monkeypatch.setenv("MOBILEVD_CACHE", str(tmp_path / name))


@pytest.fixture
def address(tmp_path) -> str:
    return f"s3://bucket/runs/{tmp_path.name}"


def train(place: SharedRun, steps: int) -> int:
    """Train from the newest checkpoint on for some steps; returns the step it started from."""
    kept = Checkpoints(place.workdir / "checkpoints", "one training")
    newest = kept.newest()
    begin = newest.step if newest else 0
    for step in range(begin + 1, begin + steps + 1):
        kept.save(step, {"net": {"weight": torch.full((2,), float(step))}}, {"curves": {}})
    return begin


def died_at(place: SharedRun, steps: int) -> None:
    with place.checkpoints():
        train(place, steps)
        raise KeyboardInterrupt


def test_a_stage_goes_on_at_the_newest_checkpoint_on_another_machine_and_leaves_none(machine, address, tmp_path):
    machine("first")
    with pytest.raises(KeyboardInterrupt):
        died_at(SharedRun(address, "finetune"), 3)
    shutil.rmtree(tmp_path / "first")
    machine("second")
    place = SharedRun(address, "finetune")
    with place.checkpoints():
        assert train(place, 2) == 3
    whole = {name.split("/")[0] for name in remote.names(f"{address}/finetune/checkpoints")}
    assert max(whole) == "step-00000005"
    assert len(whole) <= 3, "what training let go is let go there too"
    place.finish(StageRecord(stage="finetune", recipe_digest="r", data_md5="d"))
    assert remote.names(f"{address}/finetune/checkpoints") == {}
    assert set(remote.names(f"{address}/finetune")) == {"record.json"}


def test_checkpoints_are_pushed_while_the_stage_runs(machine, address):
    machine("first")
    place = SharedRun(address, "finetune")
    with place.checkpoints():
        train(place, 1)
        until = time.monotonic() + 20
        while not remote.names(f"{address}/finetune/checkpoints"):
            assert time.monotonic() < until
            time.sleep(0.05)


def test_the_other_machines_of_a_gang_take_the_checkpoint_and_push_nothing(machine, address):
    machine("first")
    place = SharedRun(address, "finetune")
    with place.checkpoints():
        train(place, 1)
    before = remote.names(f"{address}/finetune/checkpoints")
    machine("second")
    other = SharedRun(address, "finetune")
    with other.checkpoints(push=False):
        assert train(other, 2) == 1
    assert remote.names(f"{address}/finetune/checkpoints") == before


def test_a_record_names_what_was_pushed_and_its_pictures_are_found_beside_it(machine, address):
    machine("first")
    place = SharedRun(address, "evaluate")
    made, picture, page = place.workdir / "made", place.workdir / "pictures" / "curve.png", place.workdir / "page.html"
    for file in (made / "bytes", picture):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(file.name)
    page.write_text("<p>")
    record = StageRecord(
        stage="evaluate",
        recipe_digest="r",
        data_md5="d",
        artifacts={"made": seal(made)},
        pictures={"curve": "pictures/curve.png"},
        facts={"page": str(page.resolve()), "said": "nothing"},
    )
    left = place.finish(record)
    machine("second")
    assert left.artifacts["made"].uri == f"{address}/evaluate/made"
    assert (left.artifacts["made"].path / "bytes").read_text() == "bytes"
    assert runs.pictures(left)["curve"].read_text() == "curve.png"
    assert left.facts == {"page": f"{address}/evaluate/page.html", "said": "nothing"}
    assert remote.read(left.facts["page"]) == b"<p>"
    assert StageRecord.model_validate_json(remote.read(f"{address}/evaluate/record.json")) == left


def test_a_run_on_this_disk_stays_where_it_is(tmp_path):
    place = SharedRun(str(tmp_path / "runs"), "gate")
    record = StageRecord(stage="gate", recipe_digest="r", data_md5="d")
    with place.checkpoints():
        assert place.workdir == Path(tmp_path / "runs" / "gate")
    assert place.finish(record) == record
    assert StageRecord.model_validate_json((tmp_path / "runs" / "gate" / "record.json").read_bytes()) == record
