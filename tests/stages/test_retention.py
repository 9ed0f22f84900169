"""Only what nobody refers to goes, only when it is asked for, and a registry without versions frees nothing."""

import os
import time

import candidates
import mlflow_store
import pytest
import seaweed

from mobilevd import remote
from mobilevd.artifacts import Artifact, StageRecord
from mobilevd.errors import MobileVDError
from mobilevd.registry import acceptance, versions
from mobilevd.registry.runs import PARENT, log_run
from mobilevd.stages import retention

OLD_S = 30 * 86_400


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.delenv(versions.LEDGER, raising=False)
    return mlflow_store.use(tmp_path / "store", monkeypatch)


@pytest.fixture
def runs(tmp_path):
    """Three old runs and a young one, with latents, a checkpoint and a network each."""
    for run in ("1", "2", "3", "young"):
        for name in ("prepare/latents/train", "finetune/checkpoints/step/net", "finetune/network/net"):
            path = tmp_path / "runs" / "TrainFlow" / run / name
            path.parent.mkdir(parents=True)
            path.write_bytes(b"x" * 1000)
            if run != "young":
                os.utime(path, (time.time() - OLD_S,) * 2)
    return tmp_path / "runs"


def registered(latents, tmp_path, model: str = candidates.MODEL) -> None:
    """A version whose run wrote down these latents; the registry knows a version of the usual model in any case."""
    record = StageRecord(stage="prepare", recipe_digest="r", data_md5="d", artifacts={"latents": latents})
    run_id = log_run(candidates.recipe(), {"prepare": record}, acceptance.PASSED, [])
    candidates.offer(tmp_path / "offered")
    client = mlflow_store.client()
    if model != candidates.MODEL:
        client.create_registered_model(model)
    client.create_model_version(model, str(tmp_path / "bundle"), run_id)


def put(path, days: float) -> None:
    """A file, written so many days ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 1000)
    os.utime(path, (time.time() - days * 86_400,) * 2)


def free(runs, days: float) -> set[str]:
    """What may go, by flow, run, stage and folder."""
    return {retention.short(i.address) for i in retention.look(str(runs), candidates.MODEL, days) if not i.kept}


@pytest.mark.slow
def test_old_latents_and_checkpoints_go_unless_a_version_refers_to_them(store, runs, tmp_path):
    mine = runs / "TrainFlow" / "2" / "prepare" / "latents"
    registered(Artifact(uri=str(mine), sha256="0" * 64), tmp_path)
    found = retention.look(str(runs), candidates.MODEL, 14.0)
    can_go = {item.address.removeprefix(f"{runs}/TrainFlow/") for item in found if not item.kept}
    assert can_go == {"1/prepare/latents", "1/finetune/checkpoints", "2/finetune/checkpoints"} | {
        *("3/prepare/latents", "3/finetune/checkpoints")
    }
    assert retention.short(str(mine)) == "TrainFlow/2/prepare/latents"
    [kept] = [item.kept for item in found if item.address == str(mine)]
    assert kept == "mobilevd version 2"
    assert mine.is_dir()
    assert (runs / "TrainFlow" / "1" / "prepare" / "latents").is_dir(), "looking removes nothing"
    assert retention.apply(found) == 5000
    assert not (runs / "TrainFlow" / "1" / "prepare" / "latents").exists()
    assert len(list(runs.rglob("network/net"))) == 4
    assert (runs / "TrainFlow" / "young" / "prepare" / "latents").is_dir()
    assert [item for item in retention.look(str(runs), candidates.MODEL, 14.0) if not item.kept] == []


def test_what_a_version_of_another_model_refers_to_stays_too(store, runs, tmp_path, monkeypatch):
    theirs = runs / "TrainFlow" / "3" / "prepare" / "latents"
    registered(Artifact(uri=str(theirs), sha256="0" * 64), tmp_path, model="somebody's other")
    monkeypatch.setattr(versions, "AT_ONCE", 1)  # theirs is on the second page
    [kept] = [i.kept for i in retention.look(str(runs), candidates.MODEL, 14.0) if i.address == str(theirs)]
    assert kept == "somebody's other version 1"
    assert "TrainFlow/3/prepare/latents" not in free(runs, 14.0)
    assert "TrainFlow/3/finetune/checkpoints" in free(runs, 14.0)


def test_models_that_are_not_the_projects_are_in_nobodys_way(store, runs, tmp_path):
    """One registered without a run, one whose run has inner runs that left no record."""
    candidates.offer(tmp_path / "offered")
    client = mlflow_store.client()
    outer = client.create_run(client.create_experiment("search"))
    client.create_run(outer.info.experiment_id, tags={PARENT: outer.info.run_id})
    for name, run_id in (("bare", None), ("search", outer.info.run_id)):
        client.create_registered_model(name)
        client.create_model_version(name, str(tmp_path), run_id)
    assert len(free(runs, 14.0)) == 6


@pytest.mark.parametrize(("record", "goes"), [(None, set()), ("half", set()), ("whole", {"prepare", "finetune"})])
def test_all_of_a_run_that_is_not_done_stays_while_it_writes(store, tmp_path, record, goes):
    candidates.offer(tmp_path / "offered")
    run, at = tmp_path / "runs" / "TrainFlow" / "9", {"prepare/latents/train": 30, "finetune/checkpoints/step/net": 20}
    for name, days in (at | {"distill/log.txt": 3}).items():
        put(run / name, days)
    if record is not None:
        text = StageRecord(stage="register", recipe_digest="r", data_md5="d").model_dump_json()
        (run / "register").mkdir()
        (run / retention.LAST).write_text(text if record == "whole" else text[:20])
        os.utime(run / retention.LAST, (time.time() - 3 * 86_400,) * 2)
    assert {name.split("/")[2] for name in free(tmp_path / "runs", 14.0)} == goes
    kept = {item.kept for item in retention.look(str(tmp_path / "runs"), candidates.MODEL, 14.0)}
    assert kept == ({""} if goes else {"its run is not done, and wrote something 3.0 days ago"})
    assert len(free(tmp_path / "runs", 2.0)) == 2


def test_on_s3_the_same_and_nothing_beside_it(store, tmp_path, monkeypatch):
    seaweed.use(monkeypatch)
    candidates.offer(tmp_path / "offered")
    home = f"s3://bucket/retention/{tmp_path.name}"
    for name in ("prepare/latents/train", "prepare/record.json"):
        remote.write(f"{home}/TrainFlow/1/{name}", b"x" * 10)
    assert [item.kept for item in retention.look(home, candidates.MODEL, 1.0)] == ["0.0 days old, younger than 1"]
    found = retention.look(home, candidates.MODEL, 0.0)
    assert [(item.size, item.kept) for item in found] == [(10, "")]
    retention.apply(found)
    assert set(remote.names(home)) == {"TrainFlow/1/prepare/record.json"}


@pytest.mark.parametrize("record", ["half", "whole"])
def test_on_s3_a_run_is_done_when_its_last_record_is_whole(record, tmp_path, monkeypatch):
    seaweed.use(monkeypatch)
    run = f"s3://bucket/retention/{tmp_path.name}/TrainFlow/1"
    assert not retention._is_done(run)
    text = StageRecord(stage="register", recipe_digest="r", data_md5="d").model_dump_json()
    remote.write(f"{run}/{retention.LAST}", (text if record == "whole" else text[:20]).encode())
    assert retention._is_done(run) == (record == "whole")


def test_another_registry_which_knows_no_version_frees_nothing(store, runs):
    with pytest.raises(MobileVDError, match="Nothing is known to be free"):
        retention.look(str(runs), candidates.MODEL, 14.0)
    assert len(list(runs.rglob("latents"))) == 4
