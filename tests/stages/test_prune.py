import pytest

from mobilevd.errors import SurgeryError
from mobilevd.method import surgery
from mobilevd.stages import prune
from mobilevd.svd.unet import temporal_blocks


def test_exactly_the_chosen_blocks_are_left(tiny_recipe, trained, tmp_path):
    recipe = tiny_recipe()
    record = prune.run(recipe, trained(recipe, "distill"), tmp_path / "work")
    unet, log = surgery.load(record.artifacts["network"].path)
    kept = [row["block"] for row in record.tables["blocks"] if row["kept"]]
    assert list(temporal_blocks(unet)) == kept == log[-1]["keep"]
    assert (len(record.tables["blocks"]), len(kept)) == (24, 9)
    assert (record.figures["prune.blocks_before"], record.figures["prune.blocks_after"]) == (24.0, 9.0)
    assert record.figures["prune.tflops"] < record.figures["prune.tflops_before"]
    assert record.figures["prune.params_m"] < record.figures["prune.params_m_before"]
    assert (tmp_path / "work" / record.pictures["importances"]).is_file()


def test_importances_are_learned_and_the_most_important_are_kept(tiny_recipe, trained, tmp_path):
    recipe = tiny_recipe(prune={"importance_lr": 0.5})
    rows = prune.run(recipe, trained(recipe, "distill"), tmp_path / "work").tables["blocks"]
    assert len({row["importance"] for row in rows}) > 3
    assert sum(row["probability"] for row in rows) == pytest.approx(9, abs=0.01)
    assert min(r["importance"] for r in rows if r["kept"]) >= max(r["importance"] for r in rows if not r["kept"])


def test_more_blocks_than_there_are_cannot_be_kept(tiny_recipe, trained, tmp_path):
    recipe = tiny_recipe(prune={"keep": 25})
    with pytest.raises(SurgeryError, match="0 to 24"):
        prune.run(recipe, trained(recipe, "distill"), tmp_path / "work")


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
