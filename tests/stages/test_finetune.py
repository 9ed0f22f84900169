import dataclasses

import mlflow_store
import pytest
import torch

from mobilevd.artifacts import seal, verify
from mobilevd.errors import EffectError
from mobilevd.method import low_resolution, surgery
from mobilevd.registry import live, runs
from mobilevd.stages import figures, finetune
from mobilevd.svd import base
from mobilevd.video import manifest


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
    assert record.figures.keys() == figures.of_stage("finetune")
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
    monkeypatch.setitem(finetune.EDITS, "cross_attention", lambda unet: {"op": "cross_attention"})
    recipe = tiny_recipe()
    with pytest.raises(EffectError, match="cross_attention"):
        finetune.run(recipe, prepared(recipe), tmp_path / "work")
    assert not (tmp_path / "work" / "checkpoints").exists()


def test_without_edits_the_base_is_only_trained(tiny_recipe, prepared, tmp_path):
    recipe = tiny_recipe(finetune={"apply": [], "steps": 1})
    record = finetune.run(recipe, prepared(recipe), tmp_path / "work")
    assert record.figures["finetune.tflops"] == record.figures["finetune.tflops_before"]
    assert surgery.load(record.artifacts["network"].path)[1] == []


def test_the_best_checkpoint_is_left_when_the_recipe_says_so(tiny_recipe, prepared, tmp_path):
    """A rate so high that the validation gets worse again."""

    def run(folder: str, **changes):
        recipe = tiny_recipe(finetune={**restless, **changes.pop("finetune", {})}, **changes)
        return finetune.run(recipe, prepared(recipe), tmp_path / folder)

    restless = {"steps": 6, "validate_every": 1, "optim": {"lr": 0.02}, "ema_decay": 0.0}
    last = run("last").curves["val_loss"]
    best = min(last[1:], key=lambda point: point[1])[0]
    assert best < 6
    left = run("best", training={"leave": "best", "health": {"max_copy_rate": 1.0}})  # this base is random
    assert left.curves["val_loss"] == last[: best + 1]
    assert left.figures["finetune.val_loss_after"] == last[best][1]
    upto = run("upto", finetune={"steps": best})
    assert left.artifacts["network"].sha256 == upto.artifacts["network"].sha256
    assert f"leaves the weights of step {best}" in left.facts["checkpoints"]


def test_each_clip_is_told_the_motion_that_was_measured_on_it(tiny_recipe, prepared, tmp_path, monkeypatch):
    recipe, told = tiny_recipe(training={"motion_bucket": "measured"}, finetune={"steps": 4}), []
    inputs = prepared(recipe)
    folder = inputs["prepare"].artifacts["latents"].path
    one = manifest.Row("0", "v", "a", "validation", False, "", 0.0, 7.0, 3, 64, 64, 9.0, "b")
    sides = [("train", motion) for motion in (0.1, 0.05, 0.1, 0.4)] + [("validation", 9.0)] * 2
    rows = [dataclasses.replace(one, split=side, motion=motion) for side, motion in sides]
    manifest.write(folder, rows, [])
    artifacts = inputs["prepare"].artifacts | {"latents": seal(folder)}
    inputs["prepare"] = inputs["prepare"].model_copy(update={"artifacts": artifacts})
    loss = low_resolution.loss
    spy = lambda unet, x0, draws: told.append(draws.condition.ids[:, 1]) or loss(unet, x0, draws)  # noqa: E731
    monkeypatch.setattr(low_resolution, "loss", spy)
    finetune.run(recipe, inputs, tmp_path / "work")
    assert sorted(torch.cat(told).tolist()) == [64.0, 127.0, 127.0, 255.0]


def test_curves_are_in_mlflow_while_the_stage_trains(tiny_recipe, prepared, tmp_path, monkeypatch):
    store = mlflow_store.use(tmp_path / "store", monkeypatch)
    monkeypatch.setattr(live, "EVERY_S", 0.0)
    recipe = tiny_recipe(registry={"live": True})
    assert recipe.digest == tiny_recipe().digest
    record = finetune.run(recipe, prepared(recipe), tmp_path / "work")
    history = store.get_metric_history(record.facts[runs.LIVE_RUN], "loss")
    assert sorted((point.step, point.value) for point in history) == record.curves["loss"]
