"""The recipes that ship can run, say what the paper says, and gate on figures that the stages really leave."""

from pathlib import Path

import pytest
import yaml

from mobilevd import params
from mobilevd.stages import figures
from mobilevd.svd import base as bases
from mobilevd.svd.sampler import evaluations

ROOT = Path(__file__).resolve().parents[1]
FILES = [ROOT / "params.yaml", *sorted((ROOT / "recipes").rglob("*.yaml"))]


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def recipe(request) -> params.Recipe:
    return params.load(request.param)


def test_the_three_recipes_are_there_under_their_own_names():
    names = {params.load(path).name: path.name for path in FILES}
    assert names.items() >= {"pocket": "params.yaml", "mobilevd": "mobilevd.yaml", "smoke": "smoke.yaml"}.items()
    assert len({params.load(path).digest for path in FILES}) == len(FILES)


def test_every_gate_asks_for_a_figure_that_a_stage_leaves_and_says_why(recipe):
    figures.check(recipe)
    assert all(gate.why for gate in recipe.gates)


def test_no_recipe_is_loose_about_quantization(recipe):
    [gate] = [gate for gate in recipe.gates if gate.metric == "quantize.sqnr_db"] or [None]
    assert gate is None or gate.min >= recipe.quantize.min_sqnr_db


def test_clips_are_long_enough_for_fvd_and_whole_latents_of_the_base(recipe):
    assert recipe.clip.frames >= 9
    if recipe.base == "pocket":
        bases.load("pocket").check_clip(recipe.clip)
    else:
        assert (recipe.clip.width % 64, recipe.clip.height % 64) == (0, 0)


def test_adversarial_stages_share_their_settings_but_for_the_steps_and_what_follows_a_cut(recipe):
    stages = (recipe.distill, recipe.prune, recipe.funnel)
    own = {"steps", "head_start", "heads_from", "validate_every"}
    first, *cut = [stage.adversarial.model_dump(exclude=own) for stage in stages]
    assert cut[0] == cut[1]
    assert first["generator"].pop("lr") <= cut[0]["generator"].pop("lr")
    assert first.pop("adversarial_weight") >= cut[0].pop("adversarial_weight")
    assert first["generator"].pop("schedule") == "constant"
    cut[0]["generator"].pop("schedule")
    assert first == cut[0]


def test_the_papers_recipe_has_the_papers_numbers():
    paper = params.load(ROOT / "recipes" / "mobilevd.yaml")
    assert paper.base == "stabilityai/stable-video-diffusion-img2vid"
    assert (paper.clip.frames, paper.clip.width, paper.clip.height, paper.clip.fps) == (14, 512, 256, 7.0)
    assert paper.prune.keep == 11
    assert (paper.funnel.fun_factor, paper.funnel.init, paper.funnel.where) == (0.5, "csi", "spatial")
    assert paper.finetune.apply == ("cross_attention",)
    assert paper.distill.apply == ("temporal_multiscale",)
    assert paper.distill.adversarial.generator.lr == 1.0e-5
    assert paper.distill.adversarial.discriminator.lr == 1.0e-4
    assert paper.distill.adversarial.steps == 50_000
    assert 700.0 in paper.distill.adversarial.sigmas, "inference starts there"
    asked = paper.evaluate
    assert (asked.teacher_steps, asked.guidance, asked.guidance_above) == (25, (1.0, 3.0), 0.0)


def test_the_papers_share_of_validation_leaves_the_clips_that_it_asks_for():
    asked = params.load(ROOT / "recipes" / "mobilevd.yaml").prepare
    everything = asked.min_train_clips / (1.0 - asked.validation_share)
    assert asked.validation_share * everything >= asked.min_validation_clips


def test_the_pocket_teacher_is_guided_in_all_steps_but_its_last():
    asked = params.load(ROOT / "params.yaml").evaluate
    steps = asked.teacher_steps
    assert evaluations(bases.load("pocket").schedule, steps, asked.guidance_above) == 2 * steps - 1


def test_the_smoke_recipe_is_small():
    smoke = params.load(ROOT / "recipes" / "smoke.yaml")
    stages = (smoke.finetune, smoke.distill.adversarial, smoke.prune.adversarial, smoke.funnel.adversarial)
    assert sum(stage.steps for stage in stages) <= 10
    assert smoke.clip.width * smoke.clip.height * 4 == 512 * 256


def test_no_recipe_hides_a_number_in_a_text(recipe):
    """PyYAML reads 1e-5 as text; every text of a recipe is one that is meant as one."""
    text = next(path for path in FILES if params.load(path).digest == recipe.digest).read_text(encoding="utf-8")

    def texts(node):
        if isinstance(node, dict | list):
            for child in node.values() if isinstance(node, dict) else node:
                yield from texts(child)
        elif isinstance(node, str):
            yield node

    for value in texts(yaml.safe_load(text)):
        assert not value.replace(".", "").replace("e-", "").replace("e+", "").isdigit(), value
