"""A forecast counts what the stages will do, and says what it assumes."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mobilevd import cli, params
from mobilevd.errors import RecipeError
from mobilevd.operations import Machines
from mobilevd.stages import forecast
from mobilevd.stages.forecast import Speed
from mobilevd.training.checkpoints import Checkpoints

ROOT = Path(__file__).resolve().parents[2]
HUNDRED = Speed(100.0, "as given", 8)


@pytest.fixture(scope="module")
def paper() -> dict[str, dict]:
    rows = forecast.rows(params.load(ROOT / "recipes" / "mobilevd.yaml"), HUNDRED, 100_000)
    return {row["stage"]: row for row in rows}


def test_finetuning_costs_three_passes_a_step_of_the_papers_network(paper):
    passes = 3 * 100_000 * 4 + 16 * 101
    assert paper["finetune"]["PFLOP"] == pytest.approx(8 * 8.46 * passes / 1e3, rel=0.01), (
        "each device has its own batch"
    )
    assert paper["finetune"]["device-hours"] == pytest.approx(paper["finetune"]["PFLOP"] * 1e3 / 100 / 3600)
    assert paper["finetune"]["hours"] == pytest.approx(paper["finetune"]["device-hours"] / 8)


def test_memory_and_disk_follow_the_parameters_the_batch_and_the_clips(paper):
    assert 45 > paper["finetune"]["memory, GB"] > 1.5246 * 20 + 4 * 2.5
    longer = {name: paper[name]["memory, GB"] for name in ("finetune", "distill")}
    assert longer["distill"] > longer["finetune"] + 1.5246 * 4
    pixels, latents = 14 * 3 * 256 * 512, (15 * 4 * 32 * 64 + 1024) * 2
    assert paper["prepare"]["disk, GB"] == pytest.approx(100_000 * (pixels + latents) / 1e9)
    assert paper["all"]["disk, GB"] == pytest.approx(sum(r["disk, GB"] for s, r in paper.items() if s != "all"))
    assert paper["all"]["memory, GB"] == max(r["memory, GB"] for s, r in paper.items() if s != "all")


def test_disk_counts_every_checkpoint_that_lies_there_while_the_next_is_written(tmp_path):
    """The same number as a training's own folder holds at its fullest."""
    recipe = params.load(ROOT / "recipes" / "smoke.yaml")
    for keep_last, keep_best in ((2, True), (4, True), (3, False)):
        kept = Checkpoints(tmp_path / f"{keep_last}", "of one training", keep_last, keep_best)
        fullest = 0
        for step in range(1, 9):  # the first is the best
            fullest = max(fullest, len(list(kept.folder.glob("step-*"))) + 1)
            kept.save(step, {"net": {"weight": torch.zeros(1)}}, {}, score=float(step))
        changed = recipe.training.model_copy(update={"keep_last": keep_last, "keep_best": keep_best})
        changed = recipe.model_copy(update={"training": changed})
        net = forecast.network(changed)
        training = {row["stage"]: row["disk, GB"] for row in forecast.rows(changed, HUNDRED, 100)}["distill"]
        assert training == pytest.approx(net.params * (16 * fullest + 4) / 1e9)
        assert f"{fullest} checkpoints of a stage at once" in " ".join(forecast.assumptions(changed, HUNDRED, 100))


def test_more_steps_cost_more_and_more_devices_more_of_them_at_once():
    recipe = params.load(ROOT / "recipes" / "smoke.yaml")
    longer = recipe.model_copy(update={"finetune": recipe.finetune.model_copy(update={"steps": 20})})
    short, long = (forecast.rows(r, HUNDRED, 100)[1] for r in (recipe, longer))
    assert long["PFLOP"] > short["PFLOP"]
    alone = forecast.rows(recipe, Speed(100.0, "as given"), 100)[1]
    assert alone["hours"] == pytest.approx(short["hours"])
    assert 8 * alone["device-hours"] == pytest.approx(short["device-hours"])


def test_a_teacher_that_is_not_guided_to_the_end_is_counted_so():
    recipe = params.load(ROOT / "params.yaml")
    guided = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"guidance_above": 0.0})})
    (*_, ours, _), (*_, svds, _) = (forecast.rows(r, HUNDRED, 100) for r in (recipe, guided))
    assert ours["stage"] == svds["stage"] == "evaluate"
    assert ours["PFLOP"] / svds["PFLOP"] == pytest.approx((49 + 4) / (50 + 4))  # the base ends at 0.9: one step of 25


def test_an_evaluation_is_shared_among_the_devices():
    recipe = params.load(ROOT / "recipes" / "smoke.yaml")
    *_, shared, _ = forecast.rows(recipe, HUNDRED, 100)
    *_, alone, _ = forecast.rows(recipe, Speed(100.0, "as given"), 100)
    assert shared["stage"] == "evaluate"
    assert alone["hours"] == pytest.approx(8 * shared["hours"])
    assert alone["device-hours"] == pytest.approx(shared["device-hours"])


def test_each_stage_has_the_devices_of_its_own_machine_unless_others_are_given():
    recipe = params.load(ROOT / "recipes" / "smoke.yaml")
    machines = Machines(steps={"prepare": {"gpus": 4}, "distill": {"gpus": 8}, "evaluate": {"gpus": 2}})
    lent = recipe.model_copy(update={"machines": machines})
    alone, own, given = (
        {row["stage"]: row for row in forecast.rows(one, Speed(100.0, "as given", devices), 100)}
        for one, devices in ((recipe, None), (lent, None), (lent, 3))
    )
    for stage, devices in {"prepare": 1, "finetune": 1, "distill": 8, "evaluate": 2}.items():
        assert own[stage]["device-hours"] == pytest.approx(devices * own[stage]["hours"])
    assert own["distill"]["hours"] == pytest.approx(alone["distill"]["hours"])
    assert own["evaluate"]["device-hours"] == pytest.approx(alone["evaluate"]["device-hours"])
    assert given["distill"]["device-hours"] == pytest.approx(3 * given["distill"]["hours"])
    assert "devices: finetune 1, distill 8," in forecast.assumptions(lent, Speed(1.0, "as given"), 9)[1]


@pytest.mark.parametrize(
    ("hours", "told"), [(4.953e-06, "0.0178 s"), (0.005, "18 s"), (0.25, "15 min"), (1.0, "1.0 h"), (878.83, "878.8 h")]
)
def test_a_time_is_told_in_the_unit_of_its_size(hours, told):
    [row] = forecast.table([{"stage": "finetune", "hours": hours, "device-hours": hours, "disk, GB": 1.0}])
    assert row == {"stage": "finetune", "time": told, "device-time": told, "disk, GB": 1.0}


def test_the_papers_recipe_says_what_memory_is_counted_for_it(paper):
    text = (ROOT / "recipes" / "mobilevd.yaml").read_text(encoding="utf-8")
    largest, finetune = (f"{paper[stage]['memory, GB']:.0f}" for stage in ("all", "finetune"))
    assert f"`mobilevd plan` counts {largest} of\n# them in the adversarial stages, {finetune} in finetune" in text
    assert f"{finetune} GB by `mobilevd plan`" in text
    recipe = params.load(ROOT / "recipes" / "mobilevd.yaml")
    whole = recipe.model_copy(update={"training": recipe.training.model_copy(update={"gradient_checkpointing": False})})
    without = forecast.rows(whole, HUNDRED, 100)[-1]["memory, GB"]
    assert f"by `mobilevd plan` {largest} GB at most; without it {without:.0f}" in text


def test_gradient_checkpointing_and_half_precision_need_less_memory():
    recipe = params.load(ROOT / "recipes" / "smoke.yaml")

    def needed(**training) -> float:
        changed = recipe.model_copy(update={"training": recipe.training.model_copy(update=training)})
        return forecast.rows(changed, HUNDRED, 100)[1]["memory, GB"]

    assert needed() > needed(gradient_checkpointing=True) > needed(gradient_checkpointing=True, precision="bf16")


@pytest.mark.parametrize("base", ["pocket/base", str(ROOT / "pocket" / "base"), "pocket"])
def test_a_base_in_a_folder_is_the_one_that_is_counted(base, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    recipe = params.load(ROOT / "recipes" / "smoke.yaml").model_copy(update={"base": base})
    assert forecast.network(recipe).params < 10e6


@pytest.mark.parametrize("base", ["~/gone", "./gone"])
def test_a_base_that_is_not_there_is_not_taken_for_a_hub_id(base, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RecipeError, match="cannot be found"):
        forecast.network(params.load(ROOT / "recipes" / "smoke.yaml").model_copy(update={"base": base}))


def test_a_device_that_reaches_nothing_is_refused():
    done = CliRunner().invoke(cli.app, ["plan", "--recipe", str(ROOT / "params.yaml"), "--tflops", "-3"])
    assert (done.exit_code, "--tflops" in done.output) == (2, True)


@pytest.mark.slow
def test_the_command_probes_this_machine_and_says_what_it_rests_on():
    said = CliRunner().invoke(cli.app, ["plan", "--recipe", str(ROOT / "params.yaml")], catch_exceptions=False).stdout
    assert "measured here on" in said
    assert "64 clips" in said
    given = ["plan", "--recipe", str(ROOT / "params.yaml"), "--tflops", "1", "--json"]
    rows = json.loads(CliRunner().invoke(cli.app, given, catch_exceptions=False).stdout)
    assert [row["stage"] for row in rows] == [
        *("prepare", "finetune", "distill", "prune", "funnel", "quantize", "evaluate", "all")
    ]
