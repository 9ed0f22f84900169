import pytest
import torch

from mobilevd.artifacts import StageRecord
from mobilevd.errors import EffectError, IntegrityError
from mobilevd.evaluation.cost import Cost
from mobilevd.method import surgery
from mobilevd.stages import finetune
from mobilevd.stages.job import Job
from mobilevd.stages.shared_run import SharedRun
from mobilevd.training.checkpoints import Checkpoints


@pytest.fixture
def job(tiny_recipe, trained, tmp_path):
    recipe = tiny_recipe()
    return Job("distill", recipe, trained(recipe, "finetune"), tmp_path / "work")


def test_a_changed_input_is_refused(job):
    weights = job.inputs["finetune"].artifacts["network"].path / surgery.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(IntegrityError, match="changed"):
        job.network("finetune")


def test_the_pictures_of_a_training_read_no_clips_but_those_they_are_fitted_to(job):
    clips = job.inputs["prepare"].artifacts["clips"].path
    (clips / "validation.safetensors").write_bytes(b"changed")
    job.samples()
    pixels = clips / "train.safetensors"
    pixels.write_bytes(pixels.read_bytes()[:-1] + b"\0")
    with pytest.raises(IntegrityError, match="changed"):
        job.samples()


def test_a_missing_input_is_named(job):
    with pytest.raises(IntegrityError, match="needs the network of prune"):
        job.network("prune")


def test_what_was_read_becomes_a_parent(job):
    job.clips()
    job.network("finetune")
    digests = {
        name: job.inputs[name].artifacts[key].sha256 for name, key in [("prepare", "latents"), ("finetune", "network")]
    }
    assert job.parents == digests


def test_an_edit_that_saved_nothing_fails(job):
    unet, _ = job.network("finetune")
    now = job.measure(unet)
    assert job.cheaper(unet, Cost({"all": sum(now.flops.values()) + 1}, now.params), "halving") == now
    with pytest.raises(EffectError, match="halving"):
        job.cheaper(unet, now, "halving")
    dearer = Cost({"all": sum(now.flops.values()) + 1}, now.params)
    with pytest.raises(EffectError, match="halving was declared to save parameters"):
        job.cheaper(unet, dearer, "halving", weights_too=True)


def test_stages_draw_different_numbers_from_one_recipe(job, tmp_path):
    assert job.seed != Job("prune", job.recipe, job.inputs, tmp_path).seed


def test_the_encoder_is_the_finetuned_down_path_only(job):
    teacher, _ = job.network("finetune")
    encoder = job.encoder()
    assert not [name for name, _ in encoder.named_parameters() if name.startswith(("mid_block", "up_blocks"))]
    g = torch.Generator().manual_seed(0)
    given = (torch.randn(1, 3, 16, 8, 8, generator=g), torch.zeros(1), torch.randn(1, 1, 16, generator=g), job.ids())
    for ours, theirs in zip(encoder.encode(*given), teacher.encode(*given), strict=True):
        assert torch.equal(ours, theirs)


def test_ids_are_those_of_inference(job):
    assert job.ids().tolist() == [[6.0, 127.0, pytest.approx(0.02)]]


@pytest.mark.parametrize(("owner", "method", "found"), [(StageRecord, "save", False), (Checkpoints, "clear", True)])
def test_checkpoints_stay_until_the_record_is_kept(tiny_recipe, prepared, tmp_path, monkeypatch, owner, method, found):
    def killed(*_):
        raise KeyboardInterrupt

    recipe = tiny_recipe(finetune={"steps": 1})
    inputs = prepared(recipe)
    monkeypatch.setattr(owner, method, killed)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(recipe, inputs, tmp_path / "finetune")
    assert list((tmp_path / "finetune" / "checkpoints").glob("step-*"))
    assert (SharedRun(str(tmp_path), "finetune").left(recipe.digest, inputs) is not None) == found
