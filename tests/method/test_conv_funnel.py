"""Convolution funnels start at the best coupled approximation, train apart, and merge into the same function."""

import copy

import pytest
import torch
from torch.nn import functional as F

from mobilevd.errors import SurgeryError
from mobilevd.method import conv_funnel
from mobilevd.method.conv_funnel import (
    FunneledResBlock,
    NarrowResBlock,
    coupled_singular_initialisation,
    kept_channels,
    towards_channels,
)
from mobilevd.svd.unet import SpatioTemporalResBlock


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


@pytest.fixture
def block() -> SpatioTemporalResBlock:
    """SVD's own block, wide enough for several channels a group: 96 → 64 channels in 32 groups, with a shortcut."""
    torch.manual_seed(0)
    made = SpatioTemporalResBlock(in_channels=96, out_channels=64, temb_channels=24).double()
    with torch.no_grad():
        for half in (made.spatial_res_block, made.temporal_res_block):
            half.norm2.weight.copy_(random(64, seed=2))
            half.norm2.bias.copy_(random(64, seed=3))
    return made


@pytest.fixture
def given() -> tuple[torch.Tensor, ...]:
    """Two clips of three frames: x [6 96 4 5], temb [6 24], and an all-video indicator."""
    return random(6, 96, 4, 5), random(6, 24, seed=1), torch.zeros(2, 3, dtype=torch.float64)


@pytest.mark.parametrize("rank", [1, 3, 7, 8])
def test_start_meets_the_eckart_young_bound_also_in_the_gauge_of_channels(rank):
    W1, W2 = random(8, 21), random(30, 8, seed=1)
    F1, F2 = coupled_singular_initialisation(W1, W2, rank)
    turned = towards_channels(F1, F2, torch.arange(rank))
    bound = torch.linalg.svdvals(W2 @ W1)[rank:].square().sum()
    for first, second in ((F1, F2), turned):
        error = (W2 @ second @ first @ W1 - W2 @ W1).square().sum()
        torch.testing.assert_close(error, bound, rtol=1e-9, atol=1e-16)
        torch.testing.assert_close(first @ first.T, torch.eye(rank, dtype=torch.float64))
    assert (turned[0][:, :rank].diagonal() > 0).all()


def test_start_of_a_block_decomposes_kernels_biases_and_the_time_projection_together(block):
    half = block.temporal_res_block
    funneled = FunneledResBlock(half, 0.5)
    funneled.start_csi(half.norm2)
    bias = half.conv1.bias + half.time_emb_proj.bias
    W1 = torch.cat([half.conv1.weight.flatten(1), half.time_emb_proj.weight, bias[:, None]], dim=1)
    W2 = half.conv2.weight.permute(0, 2, 3, 4, 1).reshape(-1, 64)
    error = (W2 @ funneled.F2 @ funneled.F1 @ W1 - W2 @ W1).square().sum()
    bound = torch.linalg.svdvals(W2 @ W1)[32:].square().sum()
    torch.testing.assert_close(error, bound, rtol=1e-9, atol=1e-16)


def test_a_start_without_full_rank_stays_finite():
    W1, W2 = random(8, 21), random(30, 8, seed=1)
    W1[5:] = W1[:3]
    F1, F2 = coupled_singular_initialisation(W1, W2, 7)
    torch.testing.assert_close(W2 @ F2 @ F1 @ W1, W2 @ W1, rtol=1e-9, atol=1e-9)


def test_every_group_keeps_its_heaviest_channels():
    weight = torch.tensor([1.0, 5, 2, 3, 9, 0, 0, 8, 7, 4, 4, 4])
    assert kept_channels(weight, 2, 6).tolist() == [1, 3, 4, 7, 8, 9]
    assert kept_channels(weight, 3, 12).tolist() == list(range(12))


@pytest.mark.parametrize("where", ["temporal", "all"])
@torch.no_grad()
def test_full_width_csi_is_the_identity_of_the_function(build, inputs, relative, where):
    plain, funneled = build(), build()
    conv_funnel.attach(funneled, 1.0, where, "csi")
    assert relative(funneled(*inputs()), plain(*inputs())) <= 1e-10
    conv_funnel.merge(funneled)
    assert relative(funneled(*inputs()), plain(*inputs())) <= 1e-10


@torch.no_grad()
def test_full_width_csi_is_the_identity_on_svds_block(block, given, relative):
    expected = block(*given)
    conv_funnel.attach(block, 1.0, "all", "csi")
    assert relative(block(*given), expected) <= 1e-10


@pytest.mark.parametrize(
    ("fun_factor", "where", "init"), [(0.5, "spatial", "csi"), (0.25, "temporal", "he"), (0.7, "all", "csi")]
)
@torch.no_grad()
def test_merged_funnel_equals_unmerged(build, inputs, relative, fun_factor, where, init):
    unet = build()
    for funnel in conv_funnel.attach(unet, fun_factor, where, init, generator()):
        funnel.add_(0.1 * torch.randn(funnel.shape, generator=generator(1)))
    unmerged = unet(*inputs())
    assert conv_funnel.merge(unet) == {"op": "conv_funnel", "fun_factor": fun_factor, "where": where}
    assert relative(unet(*inputs()), unmerged) <= 1e-10


@pytest.mark.parametrize("fun_factor", [0.25, 0.5, 0.75])
@torch.no_grad()
def test_merged_block_equals_unmerged_with_biases_and_time_embedding(block, given, relative, fun_factor):
    conv_funnel.attach(block, fun_factor, "all", "csi")
    unmerged = block(*given)
    conv_funnel.merge(block)
    assert relative(block(*given), unmerged) <= 1e-10
    assert block.temporal_res_block.conv1.out_channels == round(64 * fun_factor)


@torch.no_grad()
def test_unmerged_block_is_the_formula(block, given, relative):
    half, (x, temb, _) = block.spatial_res_block, given
    funneled = FunneledResBlock(half, 0.75)
    funneled.start_csi(half.norm2)
    h = half.conv1(F.silu(half.norm1(x))) + half.time_emb_proj(F.silu(temb))[:, :, None, None]
    h = torch.einsum("rc,nchw->nrhw", funneled.F1, h)
    kept = [(half.norm2.weight == value).nonzero().item() for value in funneled.norm2.weight]
    h = F.silu(F.group_norm(h, 16, half.norm2.weight[kept], half.norm2.bias[kept], half.norm2.eps))
    h = half.conv2(torch.einsum("cr,nrhw->nchw", funneled.F2, h))
    assert (len(kept), funneled.norm2.num_groups) == (48, 16)
    assert [sum(4 * g <= k < 4 * g + 4 for k in kept) for g in range(16)] == [3] * 16
    assert relative(funneled(x, temb), half.conv_shortcut(x) + h) <= 1e-12


@torch.no_grad()
def test_csi_keeps_more_of_the_block_than_he(block, given, relative):
    he, expected = copy.deepcopy(block), block(*given)
    conv_funnel.attach(block, 0.75, "all", "csi")
    conv_funnel.attach(he, 0.75, "all", "he", generator())
    assert relative(block(*given), expected) < 0.7 * relative(he(*given), expected)


def test_merging_narrows_weights_and_leaves_every_other_key(build):
    before, unet, narrowed = build().state_dict(), build(), build()
    conv_funnel.attach(unet, 0.5, "temporal", "csi")
    conv_funnel.merge(unet)
    after = unet.state_dict()
    assert after.keys() == before.keys()
    changed = {key for key in before if before[key].shape != after[key].shape}
    assert {key.rsplit("_block.", 1)[1] for key in changed} == {
        *("conv1.weight", "conv1.bias", "time_emb_proj.weight", "time_emb_proj.bias"),
        *("norm2.weight", "norm2.bias", "conv2.weight"),
    }
    assert all(".temporal_res_block." in key for key in changed)
    conv_funnel.narrow(narrowed, 0.5, "temporal")
    assert {k: v.shape for k, v in narrowed.state_dict().items()} == {k: v.shape for k, v in after.items()}


def test_funnels_and_the_norm_between_move_and_a_copy_merges_alike(build, inputs, relative):
    unet = build()
    unet.requires_grad_(False)
    funnels = conv_funnel.attach(unet, 0.5, "all", "csi")
    unet(*inputs()).square().sum().backward()
    assert len(funnels) == 2 * 2 * len([m for m in unet.modules() if isinstance(m, SpatioTemporalResBlock)])
    moved = {
        name.rsplit(".", 2)[-2] if "norm" in name else name.rsplit(".", 1)[1]
        for name, p in unet.named_parameters()
        if p.grad is not None and p.grad.norm() > 0
    }
    assert moved == {"F1", "F2", "norm2"}
    torch.optim.SGD(funnels, lr=1e-6).step()
    average = copy.deepcopy(unet)
    conv_funnel.merge(average)
    with torch.no_grad():
        assert relative(average(*inputs()), unet(*inputs())) <= 1e-10
    kinds = [type(net.mid_block.resnets[0].spatial_res_block) for net in (unet, average)]
    assert kinds == [FunneledResBlock, NarrowResBlock]


def test_impossible_edits_are_refused(build):
    unet = build()
    with pytest.raises(SurgeryError, match="no funnel to merge"):
        conv_funnel.merge(unet)
    for wrong in ({"where": "cross"}, {"init": "zeros"}, {"fun_factor": 0.0}, {"fun_factor": 1.5}):
        with pytest.raises(SurgeryError, match="allowed"):
            conv_funnel.attach(unet, **{"fun_factor": 0.5, "where": "all", "init": "csi", **wrong})
    conv_funnel.attach(unet, 0.5, "temporal", "csi")
    with pytest.raises(SurgeryError, match=r"temporal_res_block is narrowed already"):
        conv_funnel.attach(unet, 0.5, "all", "csi")
    with pytest.raises(SurgeryError, match=r"another fun-factor wait to be merged"):
        conv_funnel.attach(unet, 0.25, "spatial", "csi")
    logs = [conv_funnel.merge(unet)]
    conv_funnel.attach(unet, 0.25, "spatial", "csi")
    logs.append(conv_funnel.merge(unet))
    assert [(log["fun_factor"], log["where"]) for log in logs] == [(0.5, "temporal"), (0.25, "spatial")]
