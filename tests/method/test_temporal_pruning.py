"""Gates, exact sampling, and removal: a closed gate and a removed block are the same function."""

import copy

import pytest
import torch

from mobilevd.errors import SurgeryError
from mobilevd.method import temporal_pruning
from mobilevd.method.temporal_pruning import (
    GatedBlender,
    SpatialResBlock,
    SpatialTransformer,
    brewer_sample,
    brewer_weights,
    inclusion_probabilities,
)
from mobilevd.svd.unet import AlphaBlender, temporal_blocks

EQUAL = torch.zeros(7)
SKEWED = torch.tensor([0.0, -0.3, 0.5, -1.0, 0.2, -0.7, 0.1])
SATURATED = torch.tensor([4.0, 3.5, 0.0, -0.5, 0.3, -1.0, -3.0])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("logits", [EQUAL, SKEWED, SATURATED], ids=["equal", "skewed", "saturated"])
@pytest.mark.parametrize("n", [0, 1, 3, 6, 7])
def test_inclusion_probabilities_sum_to_n_and_stay_proportional(logits, n):
    p, q = inclusion_probabilities(logits, n), logits.double().exp()
    assert p.sum().item() == pytest.approx(n, abs=1e-9)
    assert ((p >= 0) & (p <= 1)).all()
    inside = (p > 0) & (p < 1)
    if inside.any():
        c = p[inside] / q[inside]
        torch.testing.assert_close(c, c[:1].expand_as(c), rtol=1e-12, atol=0)
        assert (c[0] * q[p == 1] >= 1 - 1e-9).all()


def test_inclusion_probabilities_follow_the_formula_by_hand():
    p = inclusion_probabilities(torch.tensor([8.0, 2.0, 1.0, 1.0]).log(), 2)
    torch.testing.assert_close(p, torch.tensor([1.0, 0.5, 0.25, 0.25], dtype=torch.float64))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_brewer_weights_give_first_order_probabilities_exactly(n):
    """Walk every order of draws and add up the chance that each unit is in."""
    p = inclusion_probabilities(torch.tensor([0.0, -0.1, 0.15, -0.3, 0.06]), n)
    assert (p < 1).all()
    included = torch.zeros(5, dtype=torch.float64)

    def walk(drawn: torch.Tensor, chance: float, left: int) -> None:
        if left == 0:
            included[drawn] += chance
            return
        weights = brewer_weights(p, drawn)
        for k in (~drawn).nonzero().flatten():
            further = drawn.clone()
            further[k] = True
            walk(further, chance * (weights[k] / weights.sum()).item(), left - 1)

    walk(torch.zeros(5, dtype=torch.bool), 1.0, n)
    torch.testing.assert_close(included, p, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("logits", [EQUAL, SKEWED, SATURATED], ids=["equal", "skewed", "saturated"])
def test_samples_hold_exactly_n_and_meet_their_probabilities(logits):
    n, draws, source = 3, 4000, generator()
    p = inclusion_probabilities(logits, n)
    samples = torch.stack([brewer_sample(p, source) for _ in range(draws)]).double()
    assert (samples.sum(dim=1) == n).all()
    standard_error = (p * (1 - p) / draws).sqrt()
    assert ((samples.mean(dim=0) - p).abs() <= 5 * standard_error + 1e-12).all()


def test_samples_repeat_under_one_generator_and_differ_under_another():
    p = inclusion_probabilities(SKEWED, 3)
    draw = lambda seed: torch.stack([brewer_sample(p, g) for g in [generator(seed)] for _ in range(20)])  # noqa: E731
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


@torch.no_grad()
def test_gates_are_open_until_sampled_and_add_no_key(build, inputs, relative):
    plain, gated = build(), build()
    temporal_pruning.attach(gated, keep=5)
    assert relative(gated(*inputs()), plain(*inputs())) <= 1e-12
    assert list(gated.state_dict()) == list(plain.state_dict())


@torch.no_grad()
def test_a_gated_blend_is_the_formula(build):
    unet = build()
    gates = temporal_pruning.attach(unet, keep=1)
    gates.keep_top()
    blocks = list(temporal_blocks(unet).values())
    x_s, x_t = torch.randn(2, 8, 4, 3, 3, dtype=torch.float64), torch.randn(2, 8, 4, 3, 3, dtype=torch.float64)
    indicator = torch.zeros(2, 4, dtype=torch.float64)
    for z, block in ((1.0, blocks[0]), (0.0, blocks[1])):
        alpha = torch.sigmoid(block.time_mixer.mix_factor)
        expected = x_s + z * (1 - alpha) * (x_t - x_s)
        torch.testing.assert_close(block.time_mixer(x_s, x_t, indicator), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("keep", [0, 1, 9, 24])
@torch.no_grad()
def test_baked_network_equals_gated_one(build, inputs, relative, keep):
    unet = build()
    gates = temporal_pruning.attach(unet, keep)
    gates.logits.copy_(torch.randn(24, generator=generator()))
    names = gates.keep_top()
    gated = unet(*inputs())
    assert temporal_pruning.bake(unet, gates) == {"op": "temporal_pruning", "keep": names}
    assert len(names) == keep
    assert relative(unet(*inputs()), gated) <= 1e-12


@torch.no_grad()
def test_baked_network_really_loses_the_temporal_halves(build):
    unet, before = build(), build().state_dict()
    gates = temporal_pruning.attach(unet, keep=1)
    gates.logits[gates.names.index("mid_block.attentions.0")] = 1.0
    temporal_pruning.bake(unet, gates)
    after = unet.state_dict()
    assert list(temporal_blocks(unet)) == ["mid_block.attentions.0"]
    assert after.keys() <= before.keys()
    temporal = ("temporal_res_block", "temporal_transformer_blocks", "time_mixer", "time_pos_embed")
    gone = before.keys() - after.keys()
    assert gone == {k for k in before if any(t in k for t in temporal) and not k.startswith("mid_block.attentions.0")}
    assert type(unet.mid_block.attentions[0].time_mixer) is AlphaBlender
    assert isinstance(unet.mid_block.resnets[0], SpatialResBlock)
    assert isinstance(unet.down_blocks[0].attentions[0], SpatialTransformer)


@torch.no_grad()
def test_frames_do_not_meet_when_every_temporal_block_is_removed(build, inputs):
    unet = build()
    temporal_pruning.remove(unet, keep=[])
    sample, *rest = inputs(frames=3)
    changed = sample.clone()
    changed[:, 2] += 1.0
    assert torch.equal(unet(changed, *rest)[:, :2], unet(sample, *rest)[:, :2])


def test_straight_through_gradient_reaches_every_logit_and_is_dp_from_dz(build, inputs):
    unet = build()
    gates = temporal_pruning.attach(unet, keep=9)
    with torch.no_grad():
        gates.logits.copy_(0.3 * torch.randn(24, generator=generator()))
    z = gates.sample(generator(3))
    assert (z.detach() - z.detach().round()).abs().max() < 1e-15
    assert z.sum().item() == pytest.approx(9)
    z.retain_grad()
    unet(*inputs()).square().sum().backward()
    assert (z.grad.abs() > 0).all()
    assert (gates.logits.grad.abs() > 0).all()
    p = gates.probabilities().detach()
    assert (p < 1).all()
    by_hand = p * (z.grad - (p * z.grad).sum() / 9)  # dp_j/dlogit_i = p_j (δ_ij − p_i/n)
    torch.testing.assert_close(gates.logits.grad, by_hand.float(), rtol=1e-4, atol=1e-8)


def test_training_moves_weights_and_importances_and_frozen_weights_stay(build, inputs):
    unet = build()
    unet.conv_in.requires_grad_(False)
    gates, source = temporal_pruning.attach(unet, keep=9), generator()
    optimizer = torch.optim.SGD([*(p for p in unet.parameters() if p.requires_grad), *gates.parameters()], lr=1e-6)
    before = {k: v.clone() for k, v in unet.state_dict().items()}
    for _ in range(2):
        gates.sample(source)
        optimizer.zero_grad()
        unet(*inputs()).square().sum().backward()
        optimizer.step()
    after = unet.state_dict()
    assert torch.equal(before["conv_in.weight"], after["conv_in.weight"])
    assert not torch.equal(before["conv_out.weight"], after["conv_out.weight"])
    moved = [
        name for name in gates.names if not torch.equal(*(x[f"{name}.time_mixer.mix_factor"] for x in (before, after)))
    ]
    assert 9 <= len(moved) <= 18
    assert (gates.logits != 0).all()


@torch.no_grad()
def test_a_weight_average_copied_while_gates_are_drawn_obeys_them_and_bakes(build, inputs, relative):
    unet = build()
    gates = temporal_pruning.attach(unet, keep=9)
    with torch.enable_grad():
        gates.sample(generator())
    average = copy.deepcopy(unet)
    gates.logits.copy_(torch.randn(24, generator=generator()))
    gates.keep_top()
    assert relative(average(*inputs()), unet(*inputs())) <= 1e-12
    expected = average(*inputs())
    temporal_pruning.bake(average, gates)
    assert relative(average(*inputs()), expected) <= 1e-12
    assert len(temporal_blocks(unet)) == 24


def test_checkpointed_training_gives_the_same_gradients_after_baking(build, inputs, relative):
    unet = build()
    temporal_pruning.remove(unet, keep=["down_blocks.0.attentions.0"])
    checkpointed = copy.deepcopy(unet).train()
    checkpointed.enable_gradient_checkpointing()
    unet(*inputs()).square().sum().backward()
    checkpointed(*inputs()).square().sum().backward()
    assert relative(checkpointed.conv_in.weight.grad, unet.conv_in.weight.grad) <= 1e-12


def test_without_gates_nothing_knows_of_them(build):
    assert not any(isinstance(module, GatedBlender) for module in build().modules())


def test_impossible_edits_are_refused(build):
    unet = build()
    with pytest.raises(SurgeryError, match="0 to 24"):
        temporal_pruning.attach(unet, keep=25)
    with pytest.raises(SurgeryError, match="no temporal blocks"):
        temporal_pruning.remove(unet, ["conv_in"])
    gates = temporal_pruning.attach(unet, keep=1)
    with pytest.raises(SurgeryError, match="gates already"):
        temporal_pruning.attach(unet, keep=1)
    temporal_pruning.bake(unet, gates)
    with pytest.raises(SurgeryError, match=r"mid_block\.attentions\.0"):
        temporal_pruning.remove(unet, ["mid_block.attentions.0"])
