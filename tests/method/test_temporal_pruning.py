"""Gates and removal, on SVD's blocks and AnimateDiff's: a shut gate and a removed block are the same function."""

import copy

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder, UNet2DConditionModel, UNet3DConditionModel, UNetMotionModel
from torch import nn

from mobilevd.errors import SurgeryError
from mobilevd.method import temporal_pruning
from mobilevd.method.block_importance import Budget, Learned
from mobilevd.method.temporal_pruning import GatedBlender, NoMotion, SpatialResBlock, SpatialTransformer
from mobilevd.svd.unet import AlphaBlender, SpatioTemporalResBlock, TransformerSpatioTemporalModel, temporal_blocks

MOTION = {
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
    "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
    "layers_per_block": 1,
    "cross_attention_dim": 8,
    "num_attention_heads": 2,
    "motion_num_attention_heads": 2,
    "motion_max_seq_length": 8,
    "norm_num_groups": 4,
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some(count: int, of: int, seed: int = 0) -> torch.Tensor:
    """z with ``count`` of ``of`` gates open."""
    return (torch.randperm(of, generator=generator(seed)) < count).double()


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


@pytest.fixture
def motion_network():
    """A tiny UNetMotionModel whose motion modules do something (diffusers starts them at 0), and its inputs."""

    def make(seed: int = 0, **changes) -> tuple[UNetMotionModel, tuple[torch.Tensor, ...]]:
        torch.manual_seed(seed)
        network = UNetMotionModel(**(MOTION | changes)).double().eval()
        with torch.no_grad():
            for index, (name, p) in enumerate(network.named_parameters()):
                if ".motion_modules." in name and ".proj_out." in name:
                    p.copy_(random(*p.shape, seed=index) * 0.2)
        return network, (random(1, 4, 3, 8, 8), torch.tensor(1.0).double(), random(3, 5, 8, seed=2))

    return make


@torch.no_grad()
def test_gates_are_open_until_set_and_add_no_key(build, inputs, relative):
    plain, gated = build(), build()
    temporal_pruning.attach(gated)
    assert relative(gated(*inputs()), plain(*inputs())) <= 1e-12
    assert list(gated.state_dict()) == list(plain.state_dict())


@torch.no_grad()
def test_a_gated_blend_is_the_formula(build):
    unet = build()
    gates = temporal_pruning.attach(unet)
    gates.set(torch.tensor([1.0, 0.0, 0.3] + [0.0] * 21))
    blocks = list(temporal_blocks(unet).values())
    x_s, x_t = torch.randn(2, 8, 4, 3, 3, dtype=torch.float64), torch.randn(2, 8, 4, 3, 3, dtype=torch.float64)
    indicator = torch.zeros(2, 4, dtype=torch.float64)
    for z, block in zip((1.0, 0.0, 0.3), blocks, strict=False):
        alpha = torch.sigmoid(block.time_mixer.mix_factor)
        expected = x_s + torch.tensor(z).double() * (1 - alpha) * (x_t - x_s)
        torch.testing.assert_close(block.time_mixer(x_s, x_t, indicator), expected, rtol=1e-7, atol=1e-7)


def whole_block(kind: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """One full block of SVD in float64, with a blend far from even, and inputs for 2 clips of 5 frames."""
    torch.manual_seed(0)
    told = {"image_only_indicator": torch.zeros(2, 5, dtype=torch.float64)}
    if kind == "resnet":
        block = SpatioTemporalResBlock(32, 64, temb_channels=16, eps=1e-6)
        told |= {"temb": random(10, 16)}
    else:
        block = TransformerSpatioTemporalModel(2, 16, in_channels=32, num_layers=2, cross_attention_dim=8)
        told |= {"encoder_hidden_states": random(10, 1, 8, seed=2), "return_dict": False}
    block.time_mixer.mix_factor.data.fill_(-1.3)
    return block.double(), told | {"hidden_states": random(10, 32, 4, 6, seed=3)}


@pytest.mark.parametrize("kind", ["resnet", "transformer"])
@torch.no_grad()
def test_a_removed_block_is_its_gate_at_0_and_a_kept_one_its_gate_at_1(kind, relative):
    block, told = whole_block(kind)
    out = lambda block: block(**told)[0] if kind == "transformer" else block(**told)  # noqa: E731
    network = nn.ModuleDict({"block": block})
    untouched = out(block)
    gates = temporal_pruning.attach(network)
    assert relative(out(network["block"]), untouched) <= 1e-14
    gates.set(torch.zeros(1))
    shut = out(network["block"])
    assert relative(shut, untouched) > 1e-2
    kept, removed = copy.deepcopy(network), network
    gates.set(torch.ones(1))
    temporal_pruning.bake(kept, gates)
    assert torch.equal(out(kept["block"]), untouched)
    gates.set(torch.zeros(1))
    temporal_pruning.bake(removed, gates)
    assert relative(out(removed["block"]), shut) <= 1e-14
    assert sum(p.numel() for p in removed.parameters()) < sum(p.numel() for p in kept.parameters())


@pytest.mark.parametrize("keep", [0, 1, 9, 24])
@torch.no_grad()
def test_baked_network_equals_gated_one(build, inputs, relative, keep):
    unet = build()
    gates = temporal_pruning.attach(unet)
    gates.set(some(keep, of=24))
    names = [name for name, z in zip(gates.names, gates.z.tolist(), strict=True) if z]
    gated = unet(*inputs())
    assert temporal_pruning.bake(unet, gates) == {"op": "temporal_pruning", "keep": names}
    assert len(names) == keep
    assert relative(unet(*inputs()), gated) <= 1e-12


@torch.no_grad()
def test_gates_that_are_half_open_are_folded_into_their_blocks(build, inputs, relative):
    unet = build()
    gates = temporal_pruning.attach(unet)
    gates.set(some(9, of=24) * torch.rand(24, generator=generator(1)))
    gated = unet(*inputs())
    gates.set(torch.where(gates.z > 0, gates.z, 0.0))
    assert len(temporal_pruning.bake(unet, gates)["keep"]) == 9
    assert relative(unet(*inputs()), gated) <= 1e-12


@torch.no_grad()
def test_baked_network_really_loses_the_temporal_halves(build):
    unet, before = build(), build().state_dict()
    gates = temporal_pruning.attach(unet)
    gates.set(torch.tensor([float(name == "mid_block.attentions.0") for name in gates.names]))
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


def test_straight_through_gradient_reaches_every_importance_of_a_network_and_is_dp_from_dz(build, inputs):
    unet = build()
    gates, learned = temporal_pruning.attach(unet), Learned(Budget((1.0,) * 24, keep=9))
    with torch.no_grad():
        learned.logits.copy_(0.3 * torch.randn(24, generator=generator()))
    z = learned.draw(generator(3))
    gates.set(z)
    assert set(z.tolist()) == {0.0, 1.0}
    assert z.sum().item() == 9
    z.retain_grad()
    unet(*inputs()).square().sum().backward()
    assert (z.grad.abs() > 0).all()
    assert (learned.logits.grad.abs() > 0).all()
    p = learned.probabilities()
    assert (p < 1).all()
    by_hand = p * (z.grad - (p * z.grad).sum() / 9)  # dp_j/dlogit_i = p_j (δ_ij − p_i/n)
    torch.testing.assert_close(learned.logits.grad, by_hand.float(), rtol=1e-4, atol=1e-8)


def test_training_moves_weights_and_importances_and_frozen_weights_stay(build, inputs):
    unet = build()
    unet.conv_in.requires_grad_(False)
    gates, learned, source = temporal_pruning.attach(unet), Learned(Budget((1.0,) * 24, keep=9)), generator()
    optimizer = torch.optim.SGD([*(p for p in unet.parameters() if p.requires_grad), *learned.parameters()], lr=1e-6)
    before = {k: v.clone() for k, v in unet.state_dict().items()}
    for _ in range(2):
        gates.set(learned.draw(source))
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
    assert (learned.logits != 0).all()


@torch.no_grad()
def test_a_weight_average_copied_while_gates_are_drawn_obeys_them_and_bakes(build, inputs, relative):
    unet = build()
    gates = temporal_pruning.attach(unet)
    with torch.enable_grad():
        gates.set(Learned(Budget((1.0,) * 24, keep=9)).draw(generator()))
    average = copy.deepcopy(unet)
    gates.set(some(9, of=24))
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


def test_magnitudes_are_the_temporal_shares_of_the_blend(build):
    unet = build()
    blocks = list(temporal_blocks(unet).values())
    for index, block in enumerate(blocks):
        block.time_mixer.mix_factor.data.fill_(float(index) - 12.0)
    expected = 1 - torch.sigmoid(torch.arange(24, dtype=torch.float64) - 12.0)
    torch.testing.assert_close(temporal_pruning.magnitudes(unet), expected)


def test_impossible_edits_are_refused(build):
    unet = build()
    with pytest.raises(SurgeryError, match="no temporal blocks"):
        temporal_pruning.remove(unet, ["conv_in"])
    gates = temporal_pruning.attach(unet)
    with pytest.raises(SurgeryError, match="gates already"):
        temporal_pruning.attach(unet)
    gates.set(torch.zeros(24))
    temporal_pruning.bake(unet, gates)
    with pytest.raises(SurgeryError, match=r"mid_block\.attentions\.0"):
        temporal_pruning.remove(unet, ["mid_block.attentions.0"])
    with pytest.raises(SurgeryError, match="no temporal block"):
        temporal_pruning.attach(unet)
    with pytest.raises(SurgeryError, match="no gate to bake"):
        temporal_pruning.bake(build(), gates)
    for wrong in (float("nan"), -0.1, 1.1):
        gated = build()
        gates = temporal_pruning.attach(gated)
        gates.set(torch.full((24,), wrong))
        with pytest.raises(SurgeryError, match="cannot be baked"):
            temporal_pruning.bake(gated, gates)


@pytest.mark.parametrize("mid", [True, False])
@torch.no_grad()
def test_motion_modules_are_found_and_their_open_gates_change_no_bit(motion_network, mid):
    network, given = motion_network(use_motion_mid_block=mid)
    plain, keys = network(*given).sample, list(network.state_dict())
    gates = temporal_pruning.attach(network)
    assert all(".motion_modules." in name for name in gates.names)
    assert len(gates.names) == 6 + mid
    assert torch.equal(network(*given).sample, plain)
    assert list(network.state_dict()) == keys


@pytest.mark.parametrize("keep", [0, 1, 3, 7])
@torch.no_grad()
def test_a_baked_motion_network_equals_its_gated_one(motion_network, relative, keep):
    network, given = motion_network()
    plain = network(*given).sample
    gates = temporal_pruning.attach(network)
    gates.set(some(keep, of=7))
    gated = network(*given).sample
    assert (relative(gated, plain) < 1e-12) == (keep == 7)
    log = temporal_pruning.bake(network, gates)
    assert relative(network(*given).sample, gated) <= 1e-12
    removed = [name for name, module in network.named_modules() if isinstance(module, NoMotion)]
    assert sorted(removed + log["keep"]) == sorted(gates.names)
    assert len(removed) == 7 - keep
    assert not any(name.startswith(tuple(f"{r}." for r in removed)) for name in network.state_dict())


@torch.no_grad()
def test_half_open_motion_gates_are_folded_and_frames_part_when_all_are_shut(motion_network, relative):
    network, given = motion_network()
    gates = temporal_pruning.attach(network)
    gates.set(torch.linspace(0.1, 1.0, 7))
    gated = network(*given).sample
    temporal_pruning.bake(network, gates)
    assert relative(network(*given).sample, gated) <= 1e-12
    temporal_pruning.remove(network, keep=[])
    sample, *rest = given
    changed = sample.clone()
    changed[:, :, 2] += 1.0
    assert torch.equal(network(changed, *rest).sample[:, :, :2], network(*given).sample[:, :, :2])


@torch.no_grad()
def test_a_pruned_motion_network_is_rebuilt_from_its_log_and_loads_strictly(motion_network):
    network, given = motion_network()
    log = temporal_pruning.remove(network, ["mid_block.motion_modules.0", "down_blocks.0.motion_modules.0"])
    twin, _ = motion_network(seed=1)
    temporal_pruning.remove(twin, log["keep"])
    twin.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(twin(*given).sample, network(*given).sample)


def test_gradients_reach_every_importance_of_motion_modules(motion_network):
    network, given = motion_network()
    gates, learned = temporal_pruning.attach(network), Learned(Budget((1.0,) * 7, keep=3))
    gates.set(learned.draw(generator()))
    network(*given).sample.square().sum().backward()
    assert (learned.logits.grad.abs() > 0).all()


def test_what_cannot_be_pruned_is_refused_by_name(motion_network):
    shape = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1, "cross_attention_dim": 8}
    downs, ups = ("CrossAttnDownBlock3D", "DownBlock3D"), ("UpBlock3D", "CrossAttnUpBlock3D")
    torch.manual_seed(0)
    with torch.device("meta"):
        other = UNet3DConditionModel(**shape, attention_head_dim=4, down_block_types=downs, up_block_types=ups)
    with pytest.raises(SurgeryError, match=r"down_blocks\.0\.temp_convs\.0 \(TemporalConvLayer\)"):
        temporal_pruning.remove(other, [])
    with pytest.raises(SurgeryError, match=r"transformer_in \(TransformerTemporalModel\)"):
        temporal_pruning.attach(other)
    with torch.device("meta"):
        still = UNet2DConditionModel(**shape, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
        decoder = AutoencoderKLTemporalDecoder(block_out_channels=(32,), layers_per_block=1)
    with pytest.raises(SurgeryError, match="UNet2DConditionModel"):
        temporal_pruning.attach(still)
    for edit in (temporal_pruning.attach, lambda network: temporal_pruning.remove(network, [])):
        with pytest.raises(SurgeryError, match=r"cannot be pruned\n.*decoder\.time_conv_out \(Conv3d\)\n"):
            edit(decoder)
    with pytest.raises(SurgeryError, match=r"the other way round[^$]*resnets\.0\.time_mixer"):
        temporal_pruning.attach(decoder.decoder.mid_block)
    network, _ = motion_network()
    with pytest.raises(SurgeryError, match=r"down_blocks\.0\.motion_modules\.0"):
        temporal_pruning.magnitudes(network)
    network.mid_block.motion_modules[0].proj_out = nn.Sequential()
    with pytest.raises(SurgeryError, match=r"mid_block\.motion_modules\.0\.proj_out"):
        temporal_pruning.attach(network)
