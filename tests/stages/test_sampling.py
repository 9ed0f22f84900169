"""Samples spread over processes: the same bits whoever makes them, made once, and never of other inputs."""

import shutil
from pathlib import Path

import pytest
import tiny_svd
import torch
from safetensors.torch import load_file, save_file
from small_run import HALVED_TWICE, PREPARED, inputs_for, recipe_for

from mobilevd.artifacts import Artifact, StageRecord
from mobilevd.errors import MobileVDError
from mobilevd.evaluation import i3d, motion
from mobilevd.evaluation.fingerprint import Fingerprint
from mobilevd.params import Recipe
from mobilevd.stages import contenders, evaluate, sampling, spread
from mobilevd.svd import base as bases
from mobilevd.svd.scheduler import Schedule

NAMES = ("real", "frozen", "student")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def recipe(home) -> Recipe:
    return recipe_for(tiny_svd.write_base(home / "base", **HALVED_TWICE), clips=PREPARED)


@pytest.fixture(scope="module")
def inputs(home, recipe) -> dict[str, StageRecord]:
    return inputs_for(home, recipe)


@pytest.fixture(scope="module")
def held(recipe, inputs) -> contenders.Held:
    return contenders.held_out(recipe, inputs["prepare"])


@pytest.fixture(scope="module")
def protocol(recipe, held) -> Fingerprint:
    return evaluate._protocol(recipe, Schedule(), held)


@pytest.fixture(scope="module")
def folder(home, recipe, inputs, protocol) -> Path:
    """Made in this process."""
    sampling.run(recipe, inputs, protocol, home / "samples", NAMES)
    return home / "samples"


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    monkeypatch.setenv(spread.PROCESSES, "1")


def same(one: Path, other: Path) -> bool:
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_scores_are_those_of_the_decoded_samples(folder, recipe, inputs, held):
    got = sampling.scores(folder, "student", PREPARED)
    make = contenders.makers(recipe, Schedule(), inputs, held)["student"]()
    latents = torch.cat([make(k) for k in range(PREPARED)])
    video = bases.load(recipe.base).decode(latents).mul(255).round().to(torch.uint8)
    torch.testing.assert_close(got.features, i3d.features(video, i3d.load()), atol=1e-3, rtol=0)
    torch.testing.assert_close(got.figures["energy"], motion.energy(video))
    torch.testing.assert_close(got.figures["input_adherence"], motion.input_adherence(video, held.video[:, 0]))
    assert got.nan_share.tolist() == [0.0] * PREPARED
    assert torch.equal(sampling.videos(folder, "real", PREPARED), held.video)


def test_two_processes_make_the_same_bits_as_one(folder, home, recipe, inputs, protocol, monkeypatch):
    monkeypatch.setenv(spread.PROCESSES, "2")
    sampling.run(recipe, inputs, protocol, home / "spread", ("student",))
    for k in range(PREPARED):
        assert same(sampling.place(home / "spread", "student", k), sampling.place(folder, "student", k))
    assert not list(home.glob("spread-process-*")), "what the processes said is not kept when all went well"


def test_only_what_is_missing_is_made(folder, recipe, inputs, protocol, monkeypatch):
    lost, kept = (sampling.place(folder, "student", k) for k in (1, 2))
    before = load_file(lost)
    lost.unlink()
    lost.with_suffix(".part").write_bytes(b"what a killed process left")
    marked = load_file(kept) | {"nan_share": torch.full((1,), 0.5)}
    save_file(marked, kept)
    made = list(sampling.work(folder, NAMES))
    assert len(made) == len(NAMES) * PREPARED
    assert all(torch.equal(load_file(lost)[name], before[name]) for name in before)
    assert load_file(kept)["nan_share"] == 0.5, "what was there was not made again"


def test_pixels_of_the_page_are_made_again_from_the_kept_samples(folder, recipe, inputs, protocol, monkeypatch):
    before = sampling.videos(folder, "student", PREPARED)
    sampling.forget_videos(folder)
    monkeypatch.setattr(contenders, "_unet", None)  # no network is read for it
    assert len(list(sampling.work(folder, NAMES))) == len(NAMES) * PREPARED
    assert torch.equal(sampling.videos(folder, "student", PREPARED), before)


def test_samples_of_other_inputs_are_made_anew(folder, home, recipe, inputs, protocol):
    shutil.copyfile(sampling._job(folder), sampling._job(home / "moved"))
    folder = shutil.copytree(folder, home / "moved")
    stranger = sampling.place(folder, "frozen", 0)
    save_file({"latents": torch.zeros(1)}, stranger)
    sampling._open(recipe, inputs, protocol, folder)
    assert stranger.exists(), "the same inputs go on"
    sampling._open(recipe, inputs, protocol.model_copy(update={"seed": 6}), folder)
    assert not stranger.exists()


def test_process_that_fails_is_told_with_its_words(tmp_path, monkeypatch):
    (tmp_path / "failing.py").write_text("raise KeyError('nobody')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MobileVDError, match="KeyError: 'nobody'"):
        list(spread.run("failing", tmp_path / "samples", [tmp_path / "samples" / "0"], 2))


def test_the_log_that_is_named_is_the_failed_process_own(tmp_path, monkeypatch):
    script = "import sys, time\ntime.sleep(60) if sys.argv[2] == '0' else sys.exit('the second failed')"
    (tmp_path / "second.py").write_text(script)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MobileVDError, match=r"the second failed\n  where: .*samples-process-1\.log"):
        list(spread.run("second", tmp_path / "samples", [tmp_path / "samples" / "0"], 2))


@pytest.mark.parametrize("told", ["0", "two", "-1"])
def test_impossible_number_of_processes_is_refused(inputs, monkeypatch, told):
    monkeypatch.setenv(spread.PROCESSES, told)
    with pytest.raises(MobileVDError, match="1 or more"):
        sampling.processes(inputs)


def test_processes_are_as_many_as_threads_and_memory_allow(inputs, monkeypatch):
    monkeypatch.delenv(spread.PROCESSES)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    room = spread.psutil.virtual_memory()
    for free, count in ((100 << 30, 4), (5 << 30, 2), (1 << 20, 1)):
        monkeypatch.setattr(spread.psutil, "virtual_memory", lambda free=free: room._replace(available=free))
        assert sampling.processes(inputs) == count
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert sampling.processes(inputs) == 8  # one for each GPU, whatever the processor has


@pytest.mark.parametrize(
    ("stage", "artifact", "file", "count"),
    [
        ("finetune", "network", "unet/diffusion_pytorch_model.safetensors", 1),
        ("quantize", "onnx", "float.onnx.data", 1),
        ("prepare", "clips", "train.safetensors", 2),
        ("prepare", "latents", "train.safetensors", 2),
    ],
)
def test_a_process_has_room_for_its_largest_network(monkeypatch, tmp_path, stage, artifact, file, count):
    """On 24 GB of memory and two threads; the file is as large as SVD's network, and holds nothing."""
    large = tmp_path / file
    large.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "float.onnx").touch()
    with large.open("wb") as empty:
        empty.truncate(6 << 30)
    monkeypatch.delenv(spread.PROCESSES)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    room = spread.psutil.virtual_memory()._replace(available=24 << 30)
    monkeypatch.setattr(spread.psutil, "virtual_memory", lambda: room)
    made = {artifact: Artifact(uri=str(tmp_path), sha256="0" * 64)}
    record = StageRecord(stage=stage, recipe_digest="r", data_md5="d", artifacts=made)
    assert sampling.processes({stage: record}) == count
