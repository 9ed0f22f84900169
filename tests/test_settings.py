"""A value that cannot work, or two that contradict each other, are refused section by section."""

import copy

import pytest
from small_recipes import put, refusal, smallest

from mobilevd import params, settings
from mobilevd.method import discriminator


@pytest.fixture
def values() -> dict:
    return smallest()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("finetune.optim.lr", "1e-5"),
        ("finetune.steps", "100"),
        ("finetune.steps", 1.5),
        ("finetune.steps", True),
        ("finetune.steps", 0),
        ("finetune.ema_decay", 1.0),
        ("finetune.optim.lr", float("inf")),
        ("finetune.optim.lr", float("nan")),
        ("finetune.optim.lr", -1.0e-4),
        ("finetune.optim.betas", [0.9, 2.0]),
        ("finetune.apply", ["cross-attention"]),
        ("clip.width", 500),
        ("clip.height", 0),
        ("clip.frames", 1),
        ("clip.fps", 0.0),
        ("seed", -1),
        ("seed", 2**32),
        ("base", 5),
        ("name", "Big Name"),
        ("prepare.validation_share", 1.0),
        ("prune.keep", -1),
        ("funnel.fun_factor", 1.5),
        ("quantize.activations", "int4"),
        ("profile.devices", []),
        ("evaluate.clips", 1),
        ("evaluate.motion_bucket", 256),
        ("gates", []),
        ("registry.model", "../up"),
        ("finetune.optim.betas", [0.9, 1.0]),
        ("finetune.optim.weight_decay", float("inf")),
        ("finetune.apply", ["cross_attention", "cross_attention"]),
        ("distill.apply", ["spatial_multiscale", "temporal_multiscale", "spatial_multiscale"]),
        ("distill.adversarial.sigmas", []),
        ("distill.adversarial.heads", []),
        ("distill.adversarial.head_channels", 20),
        ("distill.adversarial.r1_gamma", float("inf")),
        ("distill.adversarial.adversarial_weight", float("inf")),
        ("prune.adversarial.reconstruction_weight", float("inf")),
        ("prepare.min_motion", float("inf")),
        ("evaluate.augmentation_sigma", float("inf")),
        ("machines.default.cpu", float("inf")),
    ],
)
def test_impossible_value_is_refused_and_named(values, path, value):
    told = refusal(put(values, path, value))
    assert f"  {path}" in told
    assert "allowed: " in told


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"keep_tflops": 4.64}, "exactly one of keep"),
        ({"keep": None}, "exactly one of keep"),
        ({"by": "l1"}, "by: l1 and l1_weight go together"),
        ({"l1_weight": 0.1}, "by: l1 and l1_weight go together"),
        ({"by": "gradient"}, "'learned', 'l1', 'magnitude' or 'random'"),
        ({"rank": "cost"}, "'importance' or 'importance_per_tflop'"),
        ({"keep": None, "keep_tflops": 0.0}, "greater than 0"),
    ],
)
def test_pruning_has_one_budget_and_one_way_to_rank(values, changes, reason):
    values["prune"] |= changes
    assert reason in refusal(values)


def test_pruning_by_cost_needs_no_number_of_blocks(values):
    values["prune"] |= {"keep": None, "keep_tflops": 4.64, "rank": "importance_per_tflop", "by": "l1", "l1_weight": 0.1}
    assert params.check(values, "here").prune.keep_tflops == 4.64


@pytest.mark.parametrize(
    ("gate", "reason"),
    [
        ({"metric": "a"}, "exactly one of max, min, max_ratio"),
        ({"metric": "a", "max": 1.0, "min": 0.0}, "exactly one of max, min, max_ratio"),
        ({"metric": "a", "max_ratio": 1.1}, "and of go together"),
        ({"metric": "a", "max": 1.0, "of": "b"}, "and of go together"),
        ({"metric": "a", "max_worse": 1.0}, "and of go together"),
        ({"metric": "a", "max_worse": -1.0, "of": "champion"}, "greater than or equal to 0"),
        ({"metric": "a", "max": 1.0, "better": "higher"}, "max says itself which way is better"),
        ({"metric": "a", "max": 1.0, "by": "median"}, "'point' or 'interval'"),
        ({"metric": "a", "max": float("inf")}, "finite"),
    ],
)
def test_gate_without_exactly_one_limit_is_refused(values, gate, reason):
    told = refusal(values | {"gates": [gate]})
    assert "  gates.0" in told
    assert reason in told


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"activations": "mixed"}, "mixed and budget_db go together"),
        ({"budget_db": 30.0}, "mixed and budget_db go together"),
        ({"activations": "mixed", "budget_db": 30.0, "quantizer": "aimet"}, "mixed needs quantizer: onnxruntime"),
    ],
)
def test_mixed_precision_has_a_budget_and_the_quantizer_that_can(values, changes, reason):
    assert reason in refusal(values | {"quantize": changes})


def test_the_heads_width_is_one_that_the_discriminator_takes(values):
    parts = settings.Adversarial.model_fields["head_channels"].metadata
    assert [part.multiple_of for part in parts if hasattr(part, "multiple_of")] == [discriminator.GROUPS]


def test_an_optimizer_without_weight_decay_is_not_asked_for_it(values):
    values["finetune"]["optim"] |= {"kind": "sm3"}
    params.check(values, "here")
    values["finetune"]["optim"]["weight_decay"] = 0.01
    assert "kind: sm3 has no weight_decay" in refusal(values)


def test_a_head_start_leaves_the_generator_steps_of_its_own(values):
    values["distill"]["adversarial"] |= {"steps": 5, "head_start": 4}
    params.check(values, "here")
    values["distill"]["adversarial"]["head_start"] = 5
    assert "head_start: got 5; allowed: below steps, here 5" in refusal(values)


def test_a_student_starts_at_a_noise_level_that_every_stage_trains_at(values):
    values["distill"]["still_start"] = {"sigma": 5.0}
    stages = ("distill", "prune", "funnel")
    for stage in stages:
        put(values, f"{stage}.adversarial.sigmas", [2.27, 5.0])
    assert params.check(values, "here").distill.still_start.sigma == 5.0
    for stage in stages:
        told = refusal(put(copy.deepcopy(values), f"{stage}.adversarial.sigmas", [2.27, 700.0])).splitlines()[1]
        assert told.startswith(f"  {stage}.adversarial.sigmas: without 5, where the one evaluation starts")
    for sigma in (0.0, 700.0):
        assert "still_start.sigma" in refusal(put(copy.deepcopy(values), "distill.still_start.sigma", sigma))
    values["distill"]["still_start"] = None
    lists = ", ".join(f"{stage}.adversarial.sigmas" for stage in stages)
    assert refusal(values).splitlines()[1].startswith(f"  {lists}: without 700")


def test_heads_go_on_from_a_stage_that_has_them_and_has_the_same(values):
    put(values, "funnel.adversarial.heads_from", "previous")
    assert params.check(values, "here").handed_on() == {"funnel": "prune"}
    assert "no stage with heads comes before" in refusal(
        put(copy.deepcopy(values), "distill.adversarial.heads_from", "previous")
    )
    for key, value in (("heads", ["spatial"]), ("head_channels", 32)):
        assert "previous needs heads and head_channels of prune" in refusal(
            put(copy.deepcopy(values), f"prune.adversarial.{key}", value)
        )


def test_a_service_that_quantizes_knows_one_width(values):
    put(values, "profile.phone.quantize", "there")
    assert "phone.quantize: here" in refusal(values | {"quantize": {"activations": "mixed", "budget_db": 30.0}})


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "truncated", "layers": "both"},
        {"kind": "truncated", "init": "he"},
        {"kind": "truncated", "merge": "before"},
        {"init": "data_aware", "layers": "convolution"},
    ],
)
def test_funnels_that_contradict_themselves_are_refused(values, changes):
    values["funnel"] |= changes
    assert "attention" in refusal(values)


@pytest.mark.parametrize("scene", ["v_(", "", 7])
def test_scene_that_is_no_regular_expression_is_refused(values, scene):
    put(values, "prepare.scene", scene)
    assert refusal(values).startswith("The recipe cannot be run\n  prepare.scene: got ")


def test_scene_is_part_of_the_digest_where_it_is_given_and_nowhere_else(values):
    plain = params.check(values)
    put(values, "prepare.scene", None)
    unset = params.check(values)
    assert (unset.digest, "scene" in unset.model_dump()["prepare"]) == (plain.digest, False)
    put(values, "prepare.scene", r"v_\w+_g\d+")
    named = params.check(values)
    assert named.digest != plain.digest
    assert params.check(named.model_dump(mode="json")).prepare.scene == r"v_\w+_g\d+"
