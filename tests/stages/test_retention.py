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
from mobilevd.registry.runs import log_run
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


def registered(latents, tmp_path) -> None:
    """A version whose run wrote down these latents."""
    record = StageRecord(stage="prepare", recipe_digest="r", data_md5="d", artifacts={"latents": latents})
    run_id = log_run(candidates.recipe(), {"prepare": record}, acceptance.PASSED, [])
    candidates.offer(tmp_path / "offered")
    client = mlflow_store.client()
    client.create_model_version(candidates.MODEL, str(tmp_path / "bundle"), run_id)


@pytest.mark.slow
def test_old_latents_and_checkpoints_go_unless_a_version_refers_to_them(store, runs, tmp_path):
    mine = runs / "TrainFlow" / "2" / "prepare" / "latents"
    registered(Artifact(uri=str(mine), sha256="0" * 64), tmp_path)
    found = retention.look(str(runs), candidates.MODEL, 14.0)
    free = {item.address.removeprefix(f"{runs}/TrainFlow/") for item in found if not item.kept}
    assert free == {"1/prepare/latents", "1/finetune/checkpoints", "2/finetune/checkpoints"} | {
        *("3/prepare/latents", "3/finetune/checkpoints")
    }
    assert retention.short(str(mine)) == "TrainFlow/2/prepare/latents"
    [kept] = [item.kept for item in found if item.address == str(mine)]
    assert kept == "version 2"
    assert mine.is_dir()
    assert (runs / "TrainFlow" / "1" / "prepare" / "latents").is_dir(), "looking removes nothing"
    assert retention.apply(found) == 5000
    assert not (runs / "TrainFlow" / "1" / "prepare" / "latents").exists()
    assert len(list(runs.rglob("network/net"))) == 4
    assert (runs / "TrainFlow" / "young" / "prepare" / "latents").is_dir()
    assert [item for item in retention.look(str(runs), candidates.MODEL, 14.0) if not item.kept] == []


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


def test_another_registry_which_knows_no_version_frees_nothing(store, runs):
    with pytest.raises(MobileVDError, match="Nothing is known to be free"):
        retention.look(str(runs), candidates.MODEL, 14.0)
    assert len(list(runs.rglob("latents"))) == 4
