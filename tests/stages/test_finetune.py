import pytest
import torch

from mobilevd.artifacts import verify
from mobilevd.errors import EffectError
from mobilevd.method import cross_attention, surgery
from mobilevd.stages import finetune
from mobilevd.svd import base


def test_finetuning_lowers_the_validation_loss_and_the_cost(tiny_recipe, prepared, tmp_path):
    recipe = tiny_recipe(finetune={"steps": 12, "validate_every": 12, "optim": {"lr": 5.0e-3}, "ema_decay": 0.5})
    record = finetune.run(recipe, prepared(recipe), tmp_path / "work")
    figures = record.figures
    assert figures["finetune.val_loss_after"] < 0.8 * figures["finetune.val_loss_before"]
    assert figures["finetune.tflops"] < figures["finetune.tflops_before"]
    assert figures["finetune.params_m"] < figures["finetune.params_m_before"]
    assert {"loss", "val_loss", "grad_norm", "lr", "val_motion_ratio", "val_copy_rate"} <= set(record.curves)
    assert [k for k, _ in record.curves["val_loss"]] == [0, 12]


def test_the_record_names_network_parents_and_pictures(tiny_recipe, prepared, tmp_path):
    recipe = tiny_recipe()
    inputs = prepared(recipe)
    record = finetune.run(recipe, inputs, tmp_path / "work")
    network = record.artifacts["network"]
    verify(network.path, network.sha256)
    unet, log = surgery.load(network.path)
    assert log == [{"op": "cross_attention"}]
    assert record.parents == {
        "prepare": inputs["prepare"].artifacts["latents"].sha256,
        "base": base.load(recipe.base).digest,
    }
    assert (record.stage, record.recipe_digest, record.data_md5) == ("finetune", recipe.digest, "0" * 32)
    assert all((tmp_path / "work" / path).is_file() for path in record.pictures.values())
    start = base.load(recipe.base).unet().conv_in.weight
    assert not torch.equal(unet.conv_in.weight, start)
    assert not (tmp_path / "work" / "checkpoints").exists()


def test_a_stage_killed_midway_continues_in_its_folder(tiny_recipe, prepared, tmp_path, killed_at):
    recipe = tiny_recipe(finetune={"steps": 3})
    inputs = prepared(recipe)
    whole = finetune.run(recipe, inputs, tmp_path / "whole")
    with pytest.raises(killed_at(2)):
        finetune.run(recipe, inputs, tmp_path / "killed")
    assert list((tmp_path / "killed" / "checkpoints").iterdir())
    resumed = finetune.run(recipe, inputs, tmp_path / "killed")
    assert resumed.curves == whole.curves
    assert resumed.artifacts["network"].sha256 == whole.artifacts["network"].sha256


def test_an_edit_without_effect_stops_the_stage_before_it_trains(tiny_recipe, prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(cross_attention, "apply", lambda unet: {"op": "cross_attention"})
    recipe = tiny_recipe()
    with pytest.raises(EffectError, match="cross_attention"):
        finetune.run(recipe, prepared(recipe), tmp_path / "work")
    assert not (tmp_path / "work" / "checkpoints").exists()


def test_without_edits_the_base_is_only_trained(tiny_recipe, prepared, tmp_path):
    recipe = tiny_recipe(finetune={"apply": [], "steps": 1})
    record = finetune.run(recipe, prepared(recipe), tmp_path / "work")
    assert record.figures["finetune.tflops"] == record.figures["finetune.tflops_before"]
    assert surgery.load(record.artifacts["network"].path)[1] == []
