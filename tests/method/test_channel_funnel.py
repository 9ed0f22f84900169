"""Funnels start as the best approximation there is, train apart, and merge into the same function."""

import copy

import pytest
import torch
from torch.nn import functional as F

from mobilevd.errors import SurgeryError
from mobilevd.method import channel_funnel
from mobilevd.method.channel_funnel import FunneledAttention, SelfAttention, coupled_singular_initialisation


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrices(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Three heads: W1 [3 8 20] and W2 [3 12 8]."""
    source = generator(seed)
    return (
        torch.randn(3, 8, 20, generator=source, dtype=torch.float64),
        torch.randn(3, 12, 8, generator=source, dtype=torch.float64),
    )


@pytest.mark.parametrize("rank", [1, 3, 4, 7, 8])
def test_coupled_initialisation_meets_the_eckart_young_bound(rank):
    W1, W2 = matrices()
    F1, F2 = coupled_singular_initialisation(W1, W2, rank)
    error = (W2 @ F2 @ F1 @ W1 - W2 @ W1).square().sum(dim=(1, 2))
    bound = torch.linalg.svdvals(W2 @ W1)[:, rank:].square().sum(dim=1)
    torch.testing.assert_close(error, bound, rtol=1e-9, atol=1e-18)
    torch.testing.assert_close(F1 @ W1 @ W1.mT @ F1.mT, F2.mT @ W2.mT @ W2 @ F2, rtol=1e-9, atol=1e-9)


def test_coupled_initialisation_beats_cutting_each_matrix_alone():
    W1, W2 = matrices()
    F1, F2 = coupled_singular_initialisation(W1, W2, 4)
    cut = lambda W: (lambda U, S, Vt: (U[..., :4] * S[..., None, :4]) @ Vt[..., :4, :])(  # noqa: E731
        *torch.linalg.svd(W, full_matrices=False)
    )
    assert (W2 @ F2 @ F1 @ W1 - W2 @ W1).norm() < 0.9 * (cut(W2) @ cut(W1) - W2 @ W1).norm()


def test_coupled_initialisation_survives_a_matrix_without_full_rank():
    W1, W2 = matrices()
    W1[:, 5:] = W1[:, :3]
    F1, F2 = coupled_singular_initialisation(W1, W2, 5)
    assert F1.isfinite().all()
    assert F2.isfinite().all()
    torch.testing.assert_close(W2 @ F2 @ F1 @ W1, W2 @ W1, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("where", ["spatial", "temporal", "all"])
@torch.no_grad()
def test_full_width_csi_is_the_identity_of_the_function(build, inputs, relative, where):
    plain, funneled = build(), build()
    channel_funnel.attach(funneled, 1.0, where, "csi")
    assert relative(funneled(*inputs()), plain(*inputs())) <= 1e-10


@pytest.mark.parametrize(("fun_factor", "where"), [(0.5, "spatial"), (0.25, "temporal"), (0.7, "all"), (1.0, "all")])
@pytest.mark.parametrize("init", ["csi", "he"])
@torch.no_grad()
def test_merged_funnel_equals_unmerged(build, inputs, relative, fun_factor, where, init):
    unet = build()
    for funnel in channel_funnel.attach(unet, fun_factor, where, init, generator()):
        funnel.add_(0.1 * torch.randn(funnel.shape, generator=generator(1)))
    unmerged = unet(*inputs())
    entry = channel_funnel.merge(unet)
    assert entry == {"op": "channel_funnel", "fun_factor": fun_factor, "where": where}
    assert relative(unet(*inputs()), unmerged) <= 1e-10


@torch.no_grad()
def test_unmerged_attention_is_the_formula(build, relative):
    attention = build().mid_block.attentions[0].transformer_blocks[0].attn1
    funneled = FunneledAttention(attention, 0.5)
    funneled.start_he(generator())
    x = torch.randn(2, 6, 64, generator=generator(1), dtype=torch.float64)
    expected = attention.to_out[0].bias.expand(2, 6, 64).clone()
    for h in range(4):
        rows = slice(16 * h, 16 * h + 16)
        q = x @ (funneled.F_q[h] @ attention.to_q.weight[rows]).T
        k = x @ (funneled.F_k[h] @ attention.to_k.weight[rows]).T
        v = x @ (funneled.F_v[h] @ attention.to_v.weight[rows]).T
        scores = torch.softmax(q @ k.mT / 16**0.5, dim=-1)
        expected += scores @ v @ (attention.to_out[0].weight[:, rows] @ funneled.F_o[h]).T
    assert q.shape[-1] == 8
    assert relative(funneled(x), expected) <= 1e-12


@torch.no_grad()
def test_csi_keeps_more_of_the_function_than_he(build, inputs, relative):
    plain, csi, he = build(), build(), build()
    channel_funnel.attach(csi, 0.5, "all", "csi")
    channel_funnel.attach(he, 0.5, "all", "he", generator())
    reference = plain(*inputs())
    assert relative(csi(*inputs()), reference) < 0.5 * relative(he(*inputs()), reference)


def test_he_start_has_its_variance_and_repeats_under_its_generator(build):
    attention = build().mid_block.attentions[0].transformer_blocks[0].attn1
    funneled, again = FunneledAttention(attention, 0.5), FunneledAttention(attention, 0.5)
    funneled.start_he(generator())
    again.start_he(generator())
    assert torch.equal(funneled.F_q, again.F_q)
    assert funneled.F_q.var().item() == pytest.approx(2 / 16, rel=0.2)


def test_merging_narrows_weights_and_leaves_every_other_key(build):
    before, unet = build().state_dict(), build()
    channel_funnel.attach(unet, 0.5, "spatial", "csi")
    channel_funnel.merge(unet)
    after = unet.state_dict()
    assert after.keys() == before.keys()
    changed = {key for key in before if before[key].shape != after[key].shape}
    assert len(changed) == 4 * 10
    assert all(".transformer_blocks." in key and ".temporal_" not in key and ".attn1." in key for key in changed)
    assert after["mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"].shape == (32, 64)
    assert after["mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.weight"].shape == (64, 32)
    narrowed = build()
    channel_funnel.narrow(narrowed, 0.5, "spatial")
    assert {k: v.shape for k, v in narrowed.state_dict().items()} == {k: v.shape for k, v in after.items()}


def test_only_funnels_move_when_the_rest_is_frozen(build, inputs):
    unet = build()
    unet.requires_grad_(False)
    funnels = channel_funnel.attach(unet, 0.5, "all", "csi")
    assert len(funnels) == 4 * 20
    unet(*inputs()).square().sum().backward()
    assert all(funnel.grad.norm() > 0 for funnel in funnels)
    assert {id(p) for p in unet.parameters() if p.grad is not None} == {id(funnel) for funnel in funnels}


def test_everything_moves_when_nothing_is_frozen_and_a_copy_merges_alike(build, inputs, relative):
    unet = build()
    funnels = channel_funnel.attach(unet, 0.5, "spatial", "csi")
    unet(*inputs()).square().sum().backward()
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn1
    assert attention.to_q.weight.grad.norm() > 0
    torch.optim.SGD([*funnels, attention.to_q.weight], lr=1e-6).step()
    average = copy.deepcopy(unet)
    channel_funnel.merge(average)
    with torch.no_grad():
        assert relative(average(*inputs()), unet(*inputs())) <= 1e-10
    assert isinstance(attention, FunneledAttention)


def test_the_scale_is_that_of_the_original_head(build):
    unet = build()
    channel_funnel.attach(unet, 0.25, "all", "csi")
    channel_funnel.merge(unet)
    merged = unet.mid_block.attentions[0].transformer_blocks[0].attn1
    x = torch.randn(1, 5, 64, dtype=torch.float64)
    q, k, v = (to(x).unflatten(2, (4, 4)).transpose(1, 2) for to in (merged.to_q, merged.to_k, merged.to_v))
    expected = merged.to_out[0](F.softmax(q @ k.mT / 4.0, dim=-1).matmul(v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(merged(x), expected, rtol=1e-12, atol=1e-12)
    assert isinstance(merged, SelfAttention)


@torch.no_grad()
def test_biases_are_columns_of_the_coupled_product_and_are_merged(build, relative):
    attention = build().mid_block.attentions[0].transformer_blocks[0].attn1
    for seed, to in enumerate((attention.to_q, attention.to_k, attention.to_v)):
        to.bias = torch.nn.Parameter(torch.randn(64, generator=generator(seed), dtype=torch.float64))
    x = torch.randn(2, 6, 64, generator=generator(3), dtype=torch.float64)
    whole, half = FunneledAttention(attention, 1.0), FunneledAttention(attention, 0.5)
    whole.start_csi()
    half.start_csi()
    assert relative(whole(x), attention(x)) <= 1e-10
    assert relative(half.merged()(x), half(x)) <= 1e-10
    k, v = (torch.cat([to.weight, to.bias[:, None]], dim=1)[:16] for to in (attention.to_k, attention.to_v))
    q, o = (
        torch.cat([attention.to_q.weight, attention.to_q.bias[:, None]], dim=1)[:16],
        attention.to_out[0].weight[:, :16],
    )
    for W2, F2, F1, W1 in ((q.T, half.F_q[0].T, half.F_k[0], k), (o, half.F_o[0], half.F_v[0], v)):
        error = (W2 @ F2 @ F1 @ W1 - W2 @ W1).square().sum()
        bound = torch.linalg.svdvals(W2 @ W1)[8:].square().sum()
        torch.testing.assert_close(error, bound, rtol=1e-9, atol=1e-16)


def test_impossible_edits_are_refused(build):
    unet = build()
    with pytest.raises(SurgeryError, match="no funnel to merge"):
        channel_funnel.merge(unet)
    for wrong in ({"where": "cross"}, {"init": "zeros"}, {"fun_factor": 0.0}, {"fun_factor": 1.5}):
        with pytest.raises(SurgeryError, match="allowed"):
            channel_funnel.attach(unet, **{"fun_factor": 0.5, "where": "all", "init": "csi", **wrong})
    channel_funnel.attach(unet, 0.5, "temporal", "csi")
    with pytest.raises(SurgeryError, match="attn1 is narrowed already"):
        channel_funnel.attach(unet, 0.5, "all", "csi")
