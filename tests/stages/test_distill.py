import pytest
import torch

from mobilevd.method import surgery
from mobilevd.stages import distill, figures
from mobilevd.svd import base as bases
from mobilevd.training import duel

ADVERSARIAL = {"generator": {"lr": 5.0e-3}, "discriminator": {"lr": 1.0e-3}, "head_channels": 16}


def test_distillation_makes_a_cheaper_generator_with_the_teachers_edits_and_its_own(tiny_recipe, trained, tmp_path):
    recipe = tiny_recipe()
    inputs = trained(recipe, "finetune")
    record = distill.run(recipe, inputs, tmp_path / "work")
    unet, log = surgery.load(record.artifacts["network"].path)
    assert log == [{"op": "cross_attention"}, {"op": "temporal_multiscale", "down": "max"}]
    assert unet.frame_down is not None
    assert record.figures.keys() == figures.of_stage("distill")
    assert record.figures["distill.tflops"] < record.figures["distill.tflops_before"]
    assert {"loss_g", "loss_rec", "d_real", "d_fake", "val_rec"} <= set(record.curves)
    assert record.parents["finetune"] == inputs["finetune"].artifacts["network"].sha256


def test_training_lowers_the_one_step_reconstruction_loss(tiny_recipe, trained, tmp_path):
    settings = {**ADVERSARIAL, "steps": 10, "validate_every": 10, "reconstruction_weight": 1.0, "ema_decay": 0.5}
    recipe = tiny_recipe(distill={"adversarial": settings})
    record = distill.run(recipe, trained(recipe, "finetune"), tmp_path / "work")
    assert record.figures["distill.rec_loss_after"] < 0.9 * record.figures["distill.rec_loss_before"]


def test_a_student_that_starts_from_the_still_clip_learns_and_is_left_so(tiny_recipe, trained, tmp_path):
    settings = {**ADVERSARIAL, "steps": 10, "validate_every": 10, "reconstruction_weight": 1.0, "ema_decay": 0.5}
    recipe = tiny_recipe(distill={"adversarial": settings, "still_start": {"sigma": 2.27}})
    inputs = trained(recipe, "finetune")
    record = distill.run(recipe, inputs, tmp_path / "work")
    unet, log = surgery.load(record.artifacts["network"].path)
    scale = bases.scaling_factor(recipe.base)
    assert log[-1] == {"op": "still_start", "sigma": 2.27, "image_scale": scale}
    assert (unet.start.sigma, unet.start.image_scale) == (2.27, scale)
    before, after = (record.figures[f"distill.rec_loss_{when}"] for when in ("before", "after"))
    assert after < 0.9 * before
    from_noise = distill.run(tiny_recipe(), inputs, tmp_path / "plain").figures["distill.rec_loss_before"]
    assert before != pytest.approx(from_noise, rel=1e-3), "validation starts where the network does"


def test_the_teacher_is_not_touched(tiny_recipe, trained, tmp_path, monkeypatch):
    recipe = tiny_recipe()
    inputs, seen = trained(recipe, "finetune"), []
    train = duel.train
    monkeypatch.setattr(duel, "train", lambda fight: seen.append(fight) or train(fight))
    distill.run(recipe, inputs, tmp_path / "work")
    teacher, _ = surgery.load(inputs["finetune"].artifacts["network"].path)
    for name, p in seen[0].encoder.named_parameters():
        assert torch.equal(p, teacher.get_parameter(name))
        assert not p.requires_grad


def test_a_stage_killed_midway_continues_in_its_folder(tiny_recipe, trained, tmp_path, killed_at):
    recipe = tiny_recipe()
    inputs = trained(recipe, "finetune")
    whole = distill.run(recipe, inputs, tmp_path / "whole")
    with pytest.raises(killed_at(2)):
        distill.run(recipe, inputs, tmp_path / "killed")
    resumed = distill.run(recipe, inputs, tmp_path / "killed")
    assert resumed.curves == whole.curves
    assert resumed.artifacts["network"].sha256 == whole.artifacts["network"].sha256
