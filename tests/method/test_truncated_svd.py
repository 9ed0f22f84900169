"""Each matrix is cut by itself, optimally, and costs what the paper says."""

import pytest
import torch

from mobilevd.errors import SurgeryError
from mobilevd.method import channel_funnel, truncated_svd
from mobilevd.method.truncated_svd import FactoredLinear, truncated


@pytest.mark.parametrize("rank", [1, 5, 12])
def test_the_error_is_eckart_youngs(rank):
    W = torch.randn(12, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, right = truncated(W, rank)
    assert (left.shape, right.shape) == ((12, rank), (rank, 20))
    error, bound = (left @ right - W).square().sum(), torch.linalg.svdvals(W)[rank:].square().sum()
    torch.testing.assert_close(error, bound, rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize("where", ["spatial", "temporal", "all"])
@torch.no_grad()
def test_full_rank_is_the_identity_of_the_function(build, inputs, relative, where):
    plain, cut = build(), build()
    assert truncated_svd.apply(cut, 1.0, where) == {"op": "truncated_svd", "fun_factor": 1.0, "where": where}
    assert relative(cut(*inputs()), plain(*inputs())) <= 1e-10


@torch.no_grad()
def test_a_cut_layer_is_two_layers_with_the_bias_at_the_end(build, relative):
    unet = build()
    out = unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_out[0]
    truncated_svd.apply(unet, 0.25, "spatial")
    cut = unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_out[0]
    U, S, Vt = torch.linalg.svd(out.weight)
    x = torch.randn(3, 5, 64, dtype=torch.float64)
    assert relative(cut(x), x @ (U[:, :16] * S[:16] @ Vt[:16]).T + out.bias) <= 1e-12
    assert [tuple(p.shape) for p in cut.parameters()] == [(16, 64), (64, 16), (64,)]


@pytest.mark.parametrize(("fun_factor", "share"), [(0.5, 1.0), (0.25, 0.5)])
def test_half_the_rank_of_square_matrices_costs_what_they_did_and_a_quarter_half(build, fun_factor, share):
    size = lambda unet: sum(p.numel() for n, p in unet.named_parameters() if ".attn1." in n and "bias" not in n)  # noqa: E731
    unet = build()
    whole = size(unet)
    truncated_svd.narrow(unet, fun_factor, "all")
    assert size(unet) == share * whole


@torch.no_grad()
def test_only_the_chosen_self_attentions_are_cut_and_a_replay_has_their_shape(build):
    unet, replayed = build(), build()
    truncated_svd.apply(unet, 0.5, "spatial")
    truncated_svd.narrow(replayed, 0.5, "spatial")
    shapes = {key: tuple(t.shape) for key, t in unet.state_dict().items()}
    assert shapes == {key: tuple(t.shape) for key, t in replayed.state_dict().items()}
    names = [name for name, m in unet.named_modules() if isinstance(m, FactoredLinear)]
    assert len(names) == 4 * 10
    assert all(".attn1." in name and ".temporal_" not in name for name in names)


def test_both_layers_of_a_cut_matrix_move_and_its_frozen_neighbours_do_not(build, inputs):
    unet = build()
    unet.requires_grad_(False)
    truncated_svd.apply(unet, 0.5, "temporal")
    unet(*inputs()).square().sum().backward()
    moved = {name for name, p in unet.named_parameters() if p.grad is not None}
    assert len(moved) == 2 * 4 * 10
    assert all(name.endswith(("left.weight", "right.weight")) for name in moved)


def test_impossible_cuts_are_refused_by_name(build):
    unet = build()
    for wrong in ({"where": "cross"}, {"fun_factor": 0.0}):
        with pytest.raises(SurgeryError, match="allowed"):
            truncated_svd.apply(unet, **{"fun_factor": 0.5, "where": "all", **wrong})
    truncated_svd.apply(unet, 0.5, "spatial")
    with pytest.raises(SurgeryError, match=r"attentions\.0\.transformer_blocks\.0\.attn1\.to_q"):
        truncated_svd.apply(unet, 0.5, "spatial")
    with pytest.raises(SurgeryError, match=r"attn1 has projections that are fused or not plain"):
        channel_funnel.attach(unet, 0.5, "spatial", "csi")
