"""What a recipe's stages will do to its base, tried without weights: whatever can be told before is told before."""

import shutil
import time

import pytest
import tiny_svd
import torch
from small_recipes import put

from mobilevd import params
from mobilevd.artifacts import write_json
from mobilevd.errors import EffectError, MobileVDError, RecipeError, SurgeryError
from mobilevd.packages import project_root
from mobilevd.stages import funnel, rehearsal
from mobilevd.svd import base as bases
from mobilevd.svd import reference
from mobilevd.svd.base import Base

OPTIM = {"lr": 1.0e-3}
BLOCKS = 24  # temporal ones of the tiny network


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Base:
    return Base(tiny_svd.write_base(tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def svd(tmp_path_factory) -> Base:
    """The configurations of the whole SVD, without a weight."""
    folder = tmp_path_factory.mktemp("svd")
    write_json(folder / "unet" / "config.json", reference.UNET)
    write_json(folder / "vae" / "config.json", reference.AUTOENCODER)
    return Base(folder)


@pytest.fixture
def values() -> dict:
    duels = [{"steps": 1, "generator": dict(OPTIM), "discriminator": dict(OPTIM)} for _ in range(3)]
    return {
        "name": "tiny",
        "clip": {"frames": 9, "width": 64, "height": 64},
        "finetune": {"steps": 1, "optim": dict(OPTIM)},
        "distill": {"adversarial": duels[0]},
        "prune": {"keep": 9, "adversarial": duels[1]},
        "funnel": {"adversarial": duels[2]},
        "gates": [{"metric": "student.fvd", "max": 1.0}],
    }


def rehearse(values: dict, base: Base) -> None:
    rehearsal.rehearse(params.check(values), base)


def rates(*matches: str) -> list[dict]:
    return [{"match": match, "lr": 1.0e-4} for match in matches]


@pytest.mark.parametrize(
    ("path", "value", "kind", "told"),
    [
        ("prune.keep", BLOCKS + 1, SurgeryError, "prune could not run: The network does not have that many temporal"),
        ("finetune.optim.rates", rates("attn9"), RecipeError, "finetune could not run: A rate matches no parameter"),
        ("distill.adversarial.generator.rates", rates("attn9"), RecipeError, "distill could not run: A rate matches"),
        ("funnel.adversarial.discriminator.rates", rates("up_blocks"), RecipeError, "funnel could not run: A rate"),
        ("prune.adversarial.generator.rates", [{"match": ".", "lr": 0.0}], RecipeError, "prune .* is left to train"),
        ("funnel.fun_factor", 0.99, EffectError, "funnel could not run: funnel was declared to save parameters"),
    ],
)
def test_what_the_base_does_not_allow_is_refused_by_the_stages_name(base, values, path, value, kind, told):
    rehearse(values, base)
    with pytest.raises(kind, match=f"^The stage {told}"):
        rehearse(put(values, path, value), base)


@pytest.mark.parametrize("by", ["learned", "random"])
def test_funnels_over_time_need_a_temporal_block_that_stays(base, values, by):
    values["prune"]["by"] = by
    put(values, "funnel.where", "temporal")
    rehearse(values, base)
    with pytest.raises(SurgeryError, match=r"^The stage funnel could not run: .*\n.*no self-attention"):
        rehearse(put(values, "prune.keep", 0), base)
    rehearse(put(values, "funnel.where", "spatial"), base)


def test_a_still_start_needs_an_autoencoder_that_scales(values, svd, tmp_path):
    values["distill"]["still_start"] = {"sigma": 2.27}
    rehearse(values, svd)
    shutil.copytree(svd.folder, tmp_path / "base")
    write_json(tmp_path / "base" / "vae" / "config.json", reference.AUTOENCODER | {"scaling_factor": 0.0})
    with pytest.raises(SurgeryError, match=r"^The stage distill could not run: The first frame would not be seen"):
        rehearse(values, Base(tmp_path / "base"))


def test_a_budget_that_no_choice_of_blocks_meets_is_refused(base, values):
    values["prune"] |= {"keep": None, "keep_tflops": 1.0e-9}
    with pytest.raises(SurgeryError, match=r"^The stage prune could not run: Removing temporal blocks cannot"):
        rehearse(values, base)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, r"attn1\.F_q"),
        ({"init": "data_aware"}, r"attn1\.F_q"),
        ({"layers": "both", "init": "he"}, r"resnets.*\.F1"),
        ({"kind": "truncated", "fun_factor": 0.25}, r"to_q\.left"),
    ],
)
def test_rates_may_name_what_the_funnel_stage_itself_puts_in(base, values, changes, name):
    values["funnel"] |= changes
    put(values, "funnel.adversarial.generator.rates", rates(name))
    rehearse(values, base)
    with pytest.raises(RecipeError, match=r"^The stage distill could not run: A rate matches no parameter"):
        rehearse(put(values, "distill.adversarial.generator.rates", rates(name)), base)
    if not changes:
        with pytest.raises(RecipeError, match=r"^The stage funnel could not run: A rate"):
            rehearse(put(put(values, "distill.adversarial.generator", OPTIM), "funnel.merge", "before"), base)


def test_rates_may_name_blocks_that_pruning_removes_in_the_end(base, values):
    put(values, "prune.adversarial.generator.rates", rates("time_mixer"))
    rehearse(put(values, "prune.keep", 0), base)
    with pytest.raises(RecipeError, match=r"^The stage prune could not run: A rate matches no parameter"):
        rehearse(put(values, "prune.by", "magnitude"), base)


def test_no_weight_is_made_and_the_embedded_base_takes_a_moment():
    recipe, base = params.load(project_root() / "recipes" / "smoke.yaml"), bases.load("pocket")
    rehearsal.rehearse(recipe, base)
    began = time.process_time()
    rehearsal.rehearse(recipe, base)
    assert time.process_time() - began < 3


@pytest.mark.parametrize("name", ["mobilevd", "ablations/funnel-both", "ablations/prune-per-tflop"])
def test_recipes_for_the_whole_svd_are_rehearsed_without_its_weights(svd, monkeypatch, name):
    seen, place = [], funnel.place
    monkeypatch.setattr(funnel, "place", lambda unet, *more: (seen.extend(unet.parameters()), place(unet, *more)))
    recipe = params.load(project_root() / "recipes" / f"{name}.yaml")
    rehearsal.rehearse(recipe, svd)
    assert all(p.device == torch.device("meta") for p in seen)
    assert sum(p.numel() for p in seen) > 1.4e9
    too_many = recipe.model_copy(update={"prune": recipe.prune.model_copy(update={"keep": 39, "keep_tflops": None})})
    with pytest.raises(MobileVDError, match="0 to 38"):
        rehearsal.rehearse(too_many, svd)
