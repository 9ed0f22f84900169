"""The costs of the temporal blocks are what a network loses with them, and reach the paper's budgets."""

import itertools

import pytest
import torch

from mobilevd.errors import SurgeryError
from mobilevd.evaluation import cost
from mobilevd.evaluation.block_costs import block_costs, outline
from mobilevd.method import cross_attention, temporal_multiscale, temporal_pruning
from mobilevd.svd import reference
from mobilevd.svd.unet import VideoUNet, temporal_blocks

LATENTS = (1, 4, 4, 8, 16)
PAPER = {11: 4.64, 8: 4.35, 4: 4.06, 18: 5.17}  # blocks kept (30, 20, 10 %; 47 % under L1) → TFLOPs
RANGE = {11: (3.44, 4.66), 8: (3.38, 4.41), 4: (3.35, 4.00), 18: (3.56, 5.09)}  # of docs/paper_map.md


@pytest.fixture
def unet() -> VideoUNet:
    torch.manual_seed(0)
    unet = VideoUNet(
        in_channels=8,
        out_channels=4,
        block_out_channels=(32, 32, 64, 64),
        num_attention_heads=(1, 1, 2, 2),
        layers_per_block=1,
        cross_attention_dim=16,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        num_frames=4,
    )
    temporal_multiscale.apply(unet)
    return unet


def test_blocks_and_the_network_without_them_add_up_to_the_whole(unet):
    costs, whole = block_costs(unet, LATENTS), cost.count(unet, LATENTS).tflops
    assert list(costs) == list(temporal_blocks(unet))
    assert all(tflops > 0 for tflops in costs.values())
    temporal_pruning.remove(unet, [])
    assert sum(costs.values()) + cost.count(unet, LATENTS).tflops == pytest.approx(whole, rel=1e-12)


def test_a_network_costs_its_bare_form_and_what_the_kept_blocks_cost(unet):
    costs, before = block_costs(unet, LATENTS), cost.count(unet, LATENTS).tflops
    keep = list(costs)[::3]
    temporal_pruning.remove(unet, keep)
    lost = sum(tflops for name, tflops in costs.items() if name not in keep)
    assert cost.count(unet, LATENTS).tflops == pytest.approx(before - lost, rel=1e-12)
    assert list(block_costs(unet, LATENTS).items()) == [(name, costs[name]) for name in keep]


def test_the_network_is_left_as_it_was_and_its_outline_holds_no_weights(unet):
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    block_costs(unet, LATENTS)
    after = unet.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    assert all(tensor.is_meta for tensor in outline(unet).state_dict().values())


def test_a_network_without_temporal_blocks_has_no_table(unet):
    temporal_pruning.remove(unet, [])
    with pytest.raises(SurgeryError, match="no temporal block"):
        block_costs(unet, LATENTS)


@pytest.mark.slow
def test_the_papers_numbers_of_blocks_reach_its_tflops_within_three_percent():
    unet = reference.unet()
    cross_attention.apply(unet)
    temporal_multiscale.apply(unet)
    latents = (1, 14, 4, 32, 64)
    costs = sorted(block_costs(unet, latents).values(), reverse=True)
    assert len(costs) == 38
    bare = cost.count(unet, latents).tflops - sum(costs)
    dearest = [bare + total for total in itertools.accumulate(costs)]
    for blocks, tflops in PAPER.items():
        assert dearest[blocks - 1] == pytest.approx(tflops, rel=0.03), blocks
        cheapest = bare + sum(costs[-blocks:])
        assert (cheapest, dearest[blocks - 1]) == pytest.approx(RANGE[blocks], abs=0.005), blocks
