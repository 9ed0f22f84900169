import copy
import math

import pytest
import torch

from mobilevd import params
from mobilevd.artifacts import seal
from mobilevd.errors import EffectError, IntegrityError, SurgeryError
from mobilevd.evaluation.block_costs import block_costs
from mobilevd.method import surgery, temporal_pruning
from mobilevd.packages import project_root
from mobilevd.stages import distill, prune
from mobilevd.stages.figures import of_stage
from mobilevd.stages.job import Job
from mobilevd.svd.unet import temporal_blocks
from mobilevd.training import seeds

ABLATIONS = sorted((project_root() / "recipes" / "ablations").glob("prune-*.yaml"))


@pytest.fixture
def job(tiny_recipe, trained, tmp_path):
    """``job(keep=...)``: the stage of a recipe with these keys, before it has done anything."""
    inputs = trained(tiny_recipe(), "distill")

    def make(**changes) -> Job:
        return Job(prune.STAGE, tiny_recipe(prune=changes), inputs, tmp_path / "work")

    return make


def kept(record) -> list[str]:
    return [row["block"] for row in record.tables["blocks"] if row["kept"]]


def network(record):
    return surgery.load(record.artifacts["network"].path)


def test_exactly_the_chosen_blocks_are_left_and_the_record_says_why(tiny_recipe, trained, tmp_path):
    recipe = tiny_recipe(prune={"importance_lr": 0.5})
    record = prune.run(recipe, trained(recipe, "distill"), tmp_path / "work")
    (unet, log), rows, figures = network(record), record.tables["blocks"], record.figures
    assert figures.keys() == of_stage("prune")
    assert list(temporal_blocks(unet)) == kept(record) == log[-1]["keep"]
    assert (len(rows), len(kept(record))) == (24, 9)
    assert (figures["prune.blocks_before"], figures["prune.blocks_after"]) == (24.0, 9.0)
    assert figures["prune.params_m"] < figures["prune.params_m_before"]
    removed = sum(row["tflops"] for row in rows if not row["kept"])
    assert figures["prune.tflops_before"] - figures["prune.tflops"] == pytest.approx(removed, rel=1e-9)
    ordered = sorted(rows, key=lambda row: int(row["why"].split()[0]))
    assert [row["kept"] for row in ordered] == [True] * 9 + [False] * 15
    assert ordered[0]["why"] == "1 of 24 by learned importance"
    assert ordered[-1]["why"] == "24 of 24 by learned importance; 9 stay"
    importances = [row["importance"] for row in ordered]
    assert importances == sorted(importances, reverse=True)
    assert len(set(importances)) > 3
    assert sum(row["probability"] for row in rows) == pytest.approx(9, abs=0.01)
    assert (tmp_path / "work" / record.pictures["importances"]).is_file()


def test_heads_go_on_as_distillation_left_them(tiny_recipe, trained, tmp_path):
    further = tiny_recipe().prune.adversarial.model_dump(mode="json") | {"heads_from": "previous"}
    recipe = tiny_recipe(prune={"adversarial": further})
    inputs = trained(recipe, "finetune")
    with pytest.raises(IntegrityError, match="prune needs the heads of distill"):
        prune.run(recipe, trained(recipe, "distill"), tmp_path / "lost")
    inputs["distill"] = distill.run(recipe, inputs, tmp_path / "distill")
    record = prune.run(recipe, inputs, tmp_path / "prune")
    afresh = tiny_recipe(prune={"adversarial": further | {"heads_from": "new"}})
    new = prune.run(afresh, inputs, tmp_path / "new")
    assert record.curves["d_real"][0] != new.curves["d_real"][0]
    assert record.curves["loss_rec"][0] == new.curves["loss_rec"][0]
    assert record.parents == new.parents
    assert record.parents["distill"] == inputs["distill"].artifacts["network"].sha256
    handed = {stage.artifacts["heads"].sha256 for stage in (inputs["distill"], record, new)}
    assert len(handed) == 3


def test_heads_that_changed_are_refused(tiny_recipe, trained, tmp_path):
    further = tiny_recipe().prune.adversarial.model_dump(mode="json") | {"heads_from": "previous"}
    recipe = tiny_recipe(prune={"adversarial": further})
    inputs = trained(recipe, "finetune")
    inputs["distill"] = distill.run(recipe, inputs, tmp_path / "distill")
    file = inputs["distill"].artifacts["heads"].path / "heads.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match=r"heads\.safetensors"):
        prune.run(recipe, inputs, tmp_path / "prune")


def test_l1_leaves_gates_below_one_folded_into_the_blocks_that_stay(tiny_recipe, trained, tmp_path):
    recipe = tiny_recipe(prune={"by": "l1", "l1_weight": 10.0, "importance_lr": 0.2})
    inputs = trained(recipe, "distill")
    record = prune.run(recipe, inputs, tmp_path / "work")
    assert len(kept(record)) == 9
    assert all(0.0 <= row["importance"] < 1.0 for row in record.tables["blocks"])
    assert record.curves["loss_penalty"][0][1] == pytest.approx(240.0)
    start = surgery.load(inputs["distill"].artifacts["network"].path)[0]
    for name, block in temporal_blocks(network(record)[0]).items():
        moved = block.time_mixer.mix_factor - start.get_submodule(name).time_mixer.mix_factor
        assert moved.item() > 0.05


def test_by_magnitude_the_blocks_with_the_largest_temporal_share_stay(tiny_recipe, trained, tmp_path):
    recipe = tiny_recipe(prune={"by": "magnitude"})
    inputs = trained(recipe, "distill")
    unet, log = surgery.load(inputs["distill"].artifacts["network"].path)
    for index, block in enumerate(temporal_blocks(unet).values()):
        block.time_mixer.mix_factor.data.fill_(-float(index))
    surgery.save(unet, log, tmp_path / "graded")
    inputs["distill"] = inputs["distill"].model_copy(update={"artifacts": {"network": seal(tmp_path / "graded")}})
    record = prune.run(recipe, inputs, tmp_path / "work")
    assert kept(record) == list(temporal_blocks(unet))[-9:] == list(temporal_blocks(network(record)[0]))
    shares = [row["importance"] for row in record.tables["blocks"]]
    assert shares[:3] == [round(1 / (1 + math.exp(-index)), 4) for index in range(3)]
    assert "probability" not in record.tables["blocks"][0]


def test_random_blocks_are_a_function_of_the_seed_and_fit_their_tflops(job, tmp_path):
    given = job()
    generator, _ = given.network("distill")
    costs, whole = block_costs(generator, given.latents()), given.measure(generator).tflops
    asked = job(by="random", keep=None, keep_tflops=0.9 * whole)
    record = prune.run(asked.recipe, asked.inputs, tmp_path / "random")
    draw = lambda seed: torch.rand(24, generator=seeds.generator(seeds.derive(seed, "prune"), "blocks")).tolist()  # noqa: E731
    assert [row["importance"] for row in record.tables["blocks"]] == [round(value, 4) for value in draw(0)]
    assert draw(0) != draw(1)
    removed = [row for row in record.tables["blocks"] if not row["kept"]]
    left = record.figures["prune.tflops"]
    assert left == pytest.approx(whole - sum(costs[row["block"]] for row in removed), rel=1e-9)
    assert left <= 0.9 * whole < left + min(row["tflops"] for row in removed)
    assert all(row["why"].endswith(f"by random order; does not fit {0.9 * whole} TFLOPs") for row in removed)


def test_a_score_per_tflop_keeps_more_blocks_of_the_same_budget(job):
    given = job()
    generator, _ = given.network("distill")
    before = given.measure(generator)
    costs = {name: before.tflops * (0.01 + 0.03 * ("attentions" in name)) for name in temporal_blocks(generator)}
    chosen = {}
    for rank in ("importance", "importance_per_tflop"):
        asked = job(keep=None, keep_tflops=0.8 * before.tflops, rank=rank).recipe.prune
        chosen[rank] = int(prune.fit(asked, before, costs).choose(torch.ones(24)).sum())
    assert chosen["importance_per_tflop"] > chosen["importance"] > 0


def test_budgets_that_a_network_cannot_meet_are_refused_before_it_trains(job):
    given = job(keep=25)
    generator, _ = given.network("distill")
    before, costs = given.measure(generator), block_costs(generator, given.latents())
    with pytest.raises(SurgeryError, match="0 to 24"):
        prune.run(given.recipe, given.inputs, given.workdir)
    bare = before.tflops - sum(costs.values())
    for tflops in (0.999 * bare, before.tflops, 1.1 * before.tflops):
        with pytest.raises(SurgeryError, match=f"{bare:.6f} to less than {before.tflops:.6f}"):
            prune.fit(job(keep=None, keep_tflops=tflops).recipe.prune, before, costs)
    assert not (given.workdir / "checkpoints").exists()


def test_an_effect_that_is_declared_and_not_measured_fails_the_stage(job):
    given = job()
    generator, _ = given.network("distill")
    before, blocks = given.measure(generator), list(temporal_blocks(generator))
    with pytest.raises(EffectError, match="Other temporal blocks"):
        prune.measured(given, generator, before, blocks, blocks[:9])
    unpruned = copy.deepcopy(generator)
    temporal_pruning.remove(generator, blocks[:9])
    assert prune.measured(given, generator, before, blocks, blocks[:9]).tflops < before.tflops
    with pytest.raises(EffectError, match="Another number of temporal blocks"):
        prune.measured(job(keep=8), generator, before, blocks, blocks[:9])
    cheap = given.measure(generator)
    with pytest.raises(EffectError, match="save FLOPs"):
        prune.measured(given, generator, cheap, blocks, blocks[:9])
    with pytest.raises(EffectError, match="costs more than was declared"):
        prune.measured(job(keep=None, keep_tflops=0.99 * cheap.tflops), generator, before, blocks, blocks[:9])
    assert prune.measured(job(keep=24), unpruned, before, blocks, blocks) == before


def test_a_stage_killed_midway_continues_in_its_folder(tiny_recipe, trained, tmp_path, killed_at):
    recipe = tiny_recipe()
    inputs = trained(recipe, "distill")
    whole = prune.run(recipe, inputs, tmp_path / "whole")
    with pytest.raises(killed_at(2)):
        prune.run(recipe, inputs, tmp_path / "killed")
    resumed = prune.run(recipe, inputs, tmp_path / "killed")
    assert resumed.curves == whole.curves
    assert resumed.tables == whole.tables
    assert resumed.artifacts["network"].sha256 == whole.artifacts["network"].sha256


def test_every_pruning_of_the_papers_ablation_is_a_recipe_that_differs_in_nothing_else():
    start = params.load(project_root() / "recipes" / "mobilevd.yaml")
    said = {}
    for path in ABLATIONS:
        recipe = params.load(path)
        assert recipe.name == path.stem
        assert recipe.model_copy(update={"name": start.name, "prune": start.prune}) == start
        assert recipe.prune.adversarial == start.prune.adversarial
        said[path.stem] = (recipe.prune.by, recipe.prune.keep, recipe.prune.keep_tflops, recipe.prune.rank)
    assert said == {
        "prune-learned-70": ("learned", 11, None, "importance"),
        "prune-learned-80": ("learned", 8, None, "importance"),
        "prune-learned-90": ("learned", 4, None, "importance"),
        "prune-l1-70": ("l1", 11, None, "importance"),
        "prune-l1-53": ("l1", 18, None, "importance"),
        "prune-magnitude": ("magnitude", 11, None, "importance"),
        "prune-random": ("random", 11, None, "importance"),
        "prune-tflops": ("learned", None, 4.64, "importance"),
        "prune-per-tflop": ("learned", None, 4.64, "importance_per_tflop"),
    }
