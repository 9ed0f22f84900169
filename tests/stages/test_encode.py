"""A shard that was finished is not made again; one that was cut short or is another's is; on this disk and on S3."""

import shutil
from pathlib import Path

import pytest
import seaweed
import test_prepare
from test_prepare import base, recipe

from mobilevd import artifacts
from mobilevd.stages import encode, prepare, share
from mobilevd.stages.shared_run import SharedRun

data = test_prepare.data
__all__ = ["base", "data"]


@pytest.fixture(params=["here", "s3"])
def run_folder(request, tmp_path, monkeypatch) -> str:
    """A run's folder on this disk, and on S3."""
    if request.param == "here":
        return str(tmp_path / "run")
    seaweed.use(monkeypatch)
    return f"s3://bucket/{tmp_path.name}"


@pytest.fixture
def shared(base, data, run_folder):
    """The recipe in three shards, and what planning them left in the run's folder."""
    several = recipe(base, data, files_per_shard=2)
    place = SharedRun(run_folder, "prepare", part="plan")
    return several, {"share": place.finish(share.run(several, {}, place.workdir))}


def elsewhere(monkeypatch, tmp_path: Path, name: str) -> None:
    """From here on, a machine that has nothing but the run's folder."""
    monkeypatch.setenv("MOBILEVD_CACHE", str(tmp_path / name))


def test_a_finished_shard_is_taken_as_it_is_and_the_join_needs_no_clip(shared, run_folder, tmp_path, monkeypatch):
    several, inputs = shared
    parts = []
    for number in share.numbers(inputs["share"]):
        elsewhere(monkeypatch, tmp_path, f"machine {number}")
        parts.append(encode.finished(several, inputs, run_folder, number))
    elsewhere(monkeypatch, tmp_path, "another")
    monkeypatch.setattr(encode, "run", lambda *_: pytest.fail("it was finished before"))
    assert [encode.finished(several, inputs, run_folder, k) for k in range(3)] == parts
    place = SharedRun(run_folder, "prepare")
    record = place.finish(prepare.join(several, inputs, place.workdir, parts))
    assert record.figures["prepare.train_clips"] + record.figures["prepare.validation_clips"] == sum(
        part.figures["clips"] for part in parts
    )
    for artifact in record.artifacts.values():
        artifacts.verify(artifact.path, artifact.sha256)
    assert len(artifacts.shards(record.artifacts["latents"].path / "train.safetensors")) >= 2
    assert all((place.workdir / picture).is_file() for picture in record.pictures.values())


def test_a_damaged_shard_and_one_of_another_plan_are_made_again(base, data, tmp_path):
    several, folder = recipe(base, data, files_per_shard=2), tmp_path / "run"
    place = SharedRun(str(folder), "prepare", part="plan")
    inputs = {"share": place.finish(share.run(several, {}, place.workdir))}
    first = encode.finished(several, inputs, str(folder), 1)
    file = first.artifacts["latents"].path / "train.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    again = encode.finished(several, inputs, str(folder), 1)
    assert file.read_bytes() == whole
    assert again.artifacts == first.artifacts
    assert again.started_at > first.started_at
    shutil.rmtree(folder / "prepare" / "plan")
    (data / "v0.mkv").rename(data / "v9.mkv")
    other = {"share": place.finish(share.run(several, {}, place.workdir))}
    assert encode.finished(several, other, str(folder), 1).artifacts != first.artifacts
