"""A stage that dies on one machine goes on at its checkpoint on another, and what it had finished is taken as it is."""

import itertools
import shutil
import threading
import time
from pathlib import Path

import pytest
import seaweed
import torch

from mobilevd import remote
from mobilevd.artifacts import Artifact, StageRecord, seal
from mobilevd.errors import DataError, MobileVDError
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


def test_a_store_that_fails_for_a_while_is_told_once_and_pushed_to_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shared_run, "LOOK_EVERY_S", 0.01)
    monkeypatch.setenv("MOBILEVD_CACHE", str(tmp_path))
    place, pushes, again = SharedRun("s3://bucket/never-asked", "finetune"), itertools.count(1), threading.Event()

    def push() -> None:
        if (number := next(pushes)) < 4:
            raise MobileVDError("The store does not answer")
        again.set()
        if number > 99:
            raise MobileVDError("The last push failed")

    monkeypatch.setattr(place, "_restore", lambda: None)
    monkeypatch.setattr(place, "_push", push)
    with place.checkpoints():
        assert again.wait(20), "the pusher gave up"
    assert capsys.readouterr().err.count("The store does not answer") == 1
    pushes = itertools.count(100)
    with pytest.raises(MobileVDError, match="The last push failed"), place.checkpoints():
        pass


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


def failed_with_a_page(place: SharedRun, name: str = "data_docs/index.html") -> None:
    page = place.workdir / name
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("<p>")
    (page.parent / "style.css").write_text("p {}")
    with place.reachable():
        raise DataError("The clips do not fit", got="12", allowed="48", where=f"min_train_clips; {page.resolve()}")


def test_a_page_that_an_error_names_is_pushed_and_named_by_where_it_lies_then(machine, address):
    machine("first")
    with pytest.raises(DataError, match="The clips do not fit") as failed:
        failed_with_a_page(SharedRun(address, "prepare"))
    assert failed.value.where == f"min_train_clips; {address}/prepare/data_docs/index.html"
    assert (failed.value.got, failed.value.allowed) == ("12", "48")
    assert set(remote.names(f"{address}/prepare/data_docs")) == {"index.html", "style.css"}


def test_a_page_beside_the_stages_work_is_pushed_alone(machine, address):
    machine("first")
    with pytest.raises(DataError) as failed:
        failed_with_a_page(SharedRun(address, "prepare"), "page.html")
    assert failed.value.where == f"min_train_clips; {address}/prepare/page.html"
    assert set(remote.names(f"{address}/prepare")) == {"page.html"}


@pytest.mark.parametrize("kind", [MobileVDError, FileNotFoundError])
def test_an_error_is_still_the_stages_own_where_its_page_cannot_be_pushed(machine, address, monkeypatch, capsys, kind):
    def push(*_: object) -> None:
        raise kind("The store does not answer")

    machine("first")
    monkeypatch.setattr(remote, "push", push)
    place = SharedRun(address, "prepare")
    with pytest.raises(DataError, match="The clips do not fit") as failed:
        failed_with_a_page(place)
    assert str(place.workdir.resolve()) in failed.value.where
    assert "The store does not answer" in capsys.readouterr().err


def test_a_page_on_this_disk_is_named_as_it_is(tmp_path, capsys):
    with pytest.raises(DataError) as failed:
        failed_with_a_page(SharedRun(str(tmp_path), "prepare"))
    assert capsys.readouterr().err == "", "nothing was to be pushed"
    assert failed.value.where == f"min_train_clips; {tmp_path}/prepare/data_docs/index.html"


def test_a_run_on_this_disk_stays_where_it_is(tmp_path):
    place = SharedRun(str(tmp_path / "runs"), "gate")
    record = StageRecord(stage="gate", recipe_digest="r", data_md5="d")
    with place.checkpoints():
        assert place.workdir == Path(tmp_path / "runs" / "gate")
    assert place.finish(record) == record
    assert StageRecord.model_validate_json((tmp_path / "runs" / "gate" / "record.json").read_bytes()) == record


NETWORK = {"network": Artifact(uri="/gone", sha256="n" * 64)}
INPUTS = {
    "prepare": StageRecord(stage="prepare", recipe_digest="r", data_md5="d", parents={"base": "b"}),
    "finetune": StageRecord(stage="finetune", recipe_digest="r", data_md5="d", artifacts=NETWORK),
}


def distilled(place: SharedRun, **changes) -> StageRecord:
    """What a stage leaves that has just ended, on this machine's disk."""
    made, picture = place.workdir / "network", place.workdir / "pictures" / "curves.png"
    for file in (made / "weights", picture):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(file.name)
    values = {"recipe_digest": "r", "data_md5": "d", "parents": {"finetune": "n" * 64, "base": "b"}} | changes
    pictures = {"curves": "pictures/curves.png"}
    return StageRecord(stage="distill", artifacts={"network": seal(made)}, pictures=pictures, **values)


def test_a_finished_record_is_taken_and_one_that_is_damaged_is_not(tmp_path):
    place = SharedRun(str(tmp_path), "distill")
    assert place.left("r", INPUTS) is None
    record = place.finish(distilled(place))
    assert place.left("r", INPUTS) == record
    (place.workdir / "network" / "weights").write_text("other")
    assert place.left("r", INPUTS) is None


@pytest.mark.parametrize(
    "changes",
    [{"recipe_digest": "s"}, {"data_md5": "e"}, {"parents": {"finetune": "m" * 64}}, {"parents": {"base": "c"}}],
)
def test_a_record_of_another_recipe_other_data_or_other_parents_is_not_taken(tmp_path, changes):
    place = SharedRun(str(tmp_path), "distill")
    place.finish(distilled(place, **changes))
    assert place.left("r", INPUTS) is None


def test_a_finished_record_is_taken_on_another_machine_with_its_pictures(machine, address):
    machine("first")
    place = SharedRun(address, "distill")
    record = place.finish(distilled(place))
    machine("second")
    place = SharedRun(address, "distill")
    assert place.left("r", INPUTS, alone=False) == record
    assert (place.workdir / "pictures" / "curves.png").read_text() == "curves.png"
    assert place.finish(record) == record


def test_a_record_that_was_not_pushed_is_taken_on_its_machine_by_a_task_that_is_alone(machine, address):
    machine("first")
    place = SharedRun(address, "distill")
    record = distilled(place)
    record.save(place.workdir / "record.json")
    assert place.left("r", INPUTS, alone=False) is None
    assert place.left("r", INPUTS) == record
    pushed = place.finish(record)
    machine("second")
    assert SharedRun(address, "distill").left("r", INPUTS) == pushed
