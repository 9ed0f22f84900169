import pytest
import torch

from mobilevd.errors import EffectError
from mobilevd.method import channel_funnel, surgery
from mobilevd.stages import figures, funnel


def test_the_merged_network_is_cheaper_and_its_output_is_the_unmerged_ones(tiny_recipe, trained, tmp_path):
    recipe = tiny_recipe()
    record = funnel.run(recipe, trained(recipe, "prune"), tmp_path / "work")
    unet, log = surgery.load(record.artifacts["network"].path)
    assert log[-1] == {"op": "channel_funnel", "fun_factor": 0.5, "where": "spatial"}
    assert record.figures.keys() == figures.of_stage("funnel")
    assert 0.0 <= record.figures["funnel.merge_error"] < 1e-3
    assert record.figures["funnel.tflops"] < record.figures["funnel.tflops_before"]
    assert not [name for name, _ in unet.named_parameters() if name.endswith((".F_q", ".F_o"))]
    assert record.facts["edits"] == "cross_attention, temporal_multiscale, temporal_pruning, channel_funnel"


@pytest.mark.parametrize(
    ("settings", "edits", "merges"),
    [
        ({"layers": "both", "where": "all"}, ["channel_funnel", "conv_funnel"], True),
        ({"layers": "convolution", "init": "he", "merge": "before"}, ["conv_funnel"], True),
        ({"kind": "truncated", "fun_factor": 0.25}, ["truncated_svd"], False),
        ({"init": "data_aware", "calibration_clips": 1}, ["channel_funnel"], True),
    ],
)
def test_every_way_to_narrow_saves_operations_and_is_loaded_strictly(
    tiny_recipe, trained, tmp_path, settings, edits, merges
):
    recipe = tiny_recipe(funnel=settings)
    record = funnel.run(recipe, trained(recipe, "prune"), tmp_path / "work")
    _, log = surgery.load(record.artifacts["network"].path)
    assert [entry["op"] for entry in log[3:]] == edits
    assert ("ranks" in log[-1]) == (settings.get("init") == "data_aware")
    assert record.figures["funnel.tflops"] < record.figures["funnel.tflops_before"]
    assert ("funnel.merge_error" in record.figures) == merges


@pytest.mark.parametrize("merge", ["after", "before"])
def test_funnels_are_trained_before_they_are_merged_unless_merged_first(
    tiny_recipe, trained, tmp_path, monkeypatch, merge
):
    moved = []
    attach = channel_funnel.attach

    def spy(*args):
        parameters = attach(*args)
        moved.append([(p, p.detach().clone()) for p in parameters])
        return parameters

    monkeypatch.setattr(channel_funnel, "attach", spy)
    recipe = tiny_recipe(funnel={"merge": merge})
    funnel.run(recipe, trained(recipe, "prune"), tmp_path / "work")
    still = [torch.equal(p, start) for p, start in moved[0]]
    for part in range(4):  # F_q, F_k, F_v, F_o of every attention; one position's q and k have no gradient
        of_part = set(still[part::4])
        assert of_part == {merge == "before"} or (part < 2 and merge == "after" and of_part == {True, False}), part


def test_a_merge_that_changes_the_output_fails(tiny_recipe, trained, tmp_path, monkeypatch):
    merge = channel_funnel.merge

    def wrong(unet):
        entry = merge(unet)
        with torch.no_grad():
            unet.conv_out.bias.add_(0.1)
        return entry

    monkeypatch.setattr(channel_funnel, "merge", wrong)
    recipe = tiny_recipe()
    with pytest.raises(EffectError, match="Merging"):
        funnel.run(recipe, trained(recipe, "prune"), tmp_path / "work")


def test_a_stage_killed_midway_continues_in_its_folder(tiny_recipe, trained, tmp_path, killed_at):
    recipe = tiny_recipe(funnel={"init": "data_aware", "calibration_clips": 1})
    inputs = trained(recipe, "prune")
    whole = funnel.run(recipe, inputs, tmp_path / "whole")
    with pytest.raises(killed_at(2)):
        funnel.run(recipe, inputs, tmp_path / "killed")
    resumed = funnel.run(recipe, inputs, tmp_path / "killed")
    assert "goes on after step 1 of 2" in resumed.facts["checkpoints"]
    assert resumed.curves == whole.curves
    assert resumed.artifacts["network"].sha256 == whole.artifacts["network"].sha256
