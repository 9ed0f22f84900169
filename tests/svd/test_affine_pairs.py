"""Funnels act on any diffusers network whose pairs they find, exactly; what they cannot rewrite they refuse by name."""

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel, UNetMotionModel
from torch import nn

from mobilevd.errors import SurgeryError
from mobilevd.method import channel_funnel, conv_funnel, truncated_svd
from mobilevd.svd.affine_pairs import UNLIKE_ATTENTION, UNLIKE_RES_BLOCK, refuse, res_blocks, self_attentions
from mobilevd.svd.unet import Attention

IMAGE = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
MOTION = {
    "block_out_channels": (32, 32),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "num_attention_heads": 2,
    "motion_num_attention_heads": 2,
    "norm_num_groups": 16,
    "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
    "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
}


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def image_network() -> tuple[nn.Module, tuple]:
    torch.manual_seed(0)
    return UNet2DConditionModel(**IMAGE).double().eval(), (random(2, 4, 8, 8), 7, random(2, 5, 16, seed=2))


def biased_network() -> tuple[nn.Module, tuple]:
    """ResBlocks that resample, and biases in queries, keys and values."""
    network, given = image_network()
    network = UNet2DConditionModel(**IMAGE, attention_type="default", resnet_skip_time_act=True).double().eval()
    for attention in self_attentions(network, "all").values():
        for to in (attention.to_q, attention.to_k, attention.to_v):
            to.bias = nn.Parameter(random(to.out_features, seed=3))
    return network, given


def motion_network() -> tuple[nn.Module, tuple]:
    """AnimateDiff: motion modules that are not zero any more, as after training."""
    torch.manual_seed(0)
    network = UNetMotionModel(**MOTION).double().eval()
    with torch.no_grad():
        for name, p in network.named_parameters():
            if "motion_modules" in name and "proj_out" in name:
                p.copy_(0.1 * random(*p.shape, seed=4))
    return network, (random(1, 4, 3, 8, 8), 7, random(3, 5, 16, seed=2))


NETWORKS = {"image": image_network, "biased": biased_network, "motion": motion_network}


@pytest.fixture(params=NETWORKS)
def case(request) -> tuple[nn.Module, tuple]:
    return NETWORKS[request.param]()


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@torch.no_grad()
def test_full_width_funnels_and_cuts_are_the_identity_of_any_network(case):
    network, given = case
    plain = network(*given).sample
    channel_funnel.attach(network, 1.0, "all", "csi")
    conv_funnel.attach(network, 1.0, "all", "csi")
    assert relative(network(*given).sample, plain) <= 1e-10


@torch.no_grad()
def test_full_rank_cuts_are_the_identity_of_any_network(case):
    network, given = case
    plain = network(*given).sample
    truncated_svd.apply(network, 1.0, "all")
    assert relative(network(*given).sample, plain) <= 1e-10


@torch.no_grad()
def test_merged_funnels_equal_unmerged_ones_in_any_network(case):
    network, given = case
    plain = network(*given).sample
    channel_funnel.attach(network, 0.5, "all", "csi")
    conv_funnel.attach(network, 0.5, "all", "csi")
    unmerged = network(*given).sample
    parameters = sum(p.numel() for p in network.parameters())
    assert [merge(network)["fun_factor"] for merge in (channel_funnel.merge, conv_funnel.merge)] == [0.5, 0.5]
    assert relative(network(*given).sample, unmerged) <= 1e-10
    assert relative(unmerged, plain) > 1e-6
    assert sum(p.numel() for p in network.parameters()) < parameters


def test_motion_modules_count_as_temporal_and_both_of_their_attentions_are_found():
    network, _ = motion_network()
    temporal, spatial = self_attentions(network, "temporal"), self_attentions(network, "spatial")
    assert {name.rsplit(".", 1)[1] for name in temporal} == {"attn1", "attn2"}
    assert all(".motion_modules." in name for name in temporal)
    assert {name.rsplit(".", 1)[1] for name in spatial} == {"attn1"}
    assert set(self_attentions(network, "all")) == {*temporal, *spatial}
    assert set(self_attentions(network.down_blocks[0], "spatial")) == {
        name.removeprefix("down_blocks.0.") for name in spatial if name.startswith("down_blocks.0.")
    }


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"added_kv_proj_dim": 8}, "added key and value"),
        ({"norm_num_groups": 4}, "group norm inside"),
        ({"residual_connection": True}, "residual connection"),
        ({"rescale_output_factor": 2.0}, "rescale factor"),
        ({"qk_norm": "layer_norm"}, "normalises queries"),
        ({"cross_attention_norm": "layer_norm"}, "normalises its context"),
        ({"is_causal": True}, "causal"),
        ({"kv_heads": 1}, "shares key heads"),
        ({"dropout": 0.1}, "drops activations"),
    ],
)
def test_an_attention_that_cannot_be_rewritten_is_refused_by_name_and_reason(settings, reason):
    network = nn.ModuleDict({"odd": Attention(16, heads=2, dim_head=8, **settings)})
    with pytest.raises(SurgeryError, match=f"odd has .*{reason}|odd {reason}|odd is {reason}"):
        channel_funnel.attach(network, 0.5, "all", "csi")


def test_a_processor_of_its_own_and_replaced_projections_are_refused():
    attention = Attention(16, heads=2, dim_head=8)
    attention.set_processor(lambda *args: None)
    with pytest.raises(SurgeryError, match="odd has a processor"):
        refuse({"odd": attention}, UNLIKE_ATTENTION)
    attention = Attention(16, heads=2, dim_head=8)
    attention.to_k = nn.Sequential(attention.to_k)
    with pytest.raises(SurgeryError, match="odd has projections"):
        refuse({"odd": attention}, UNLIKE_ATTENTION)


def test_a_network_with_one_block_that_cannot_be_rewritten_is_left_whole():
    network = UNet2DModel(
        sample_size=8,
        block_out_channels=(32, 32),
        layers_per_block=1,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    before = {name: type(m) for name, m in network.named_modules()}
    with pytest.raises(SurgeryError, match=r"down_blocks\.1\.attentions\.0 has a group norm inside"):
        channel_funnel.attach(network, 0.5, "all", "csi")
    assert {name: type(m) for name, m in network.named_modules()} == before


def test_res_blocks_that_scale_and_shift_or_are_foreign_are_refused_by_name():
    network = UNet2DConditionModel(**IMAGE, resnet_time_scale_shift="scale_shift")
    with pytest.raises(SurgeryError, match=r"down_blocks\.0\.resnets\.0 scales and shifts"):
        conv_funnel.attach(network, 0.5, "all", "csi")
    block = nn.Module()
    block.conv1, block.norm2, block.conv2 = nn.Conv2d(4, 4, 1), nn.GroupNorm(1, 4), nn.Conv2d(4, 4, 1)
    with pytest.raises(SurgeryError, match="odd is narrowed already, or of a kind of its own"):
        refuse({"odd": block}, UNLIKE_RES_BLOCK)
    for find, label in ((self_attentions, "self-attention"), (res_blocks, "ResBlock")):
        with pytest.raises(SurgeryError, match=f"no {label}"):
            find(nn.Linear(2, 2), "all")


@torch.no_grad()
def test_a_funneled_attention_refuses_a_context_and_a_mask():
    network = nn.ModuleDict({"one": Attention(16, heads=2, dim_head=8)})
    channel_funnel.attach(network, 0.5, "all", "csi")
    x = torch.randn(1, 3, 16)
    for _ in range(2):
        for given in ({"encoder_hidden_states": x}, {"attention_mask": x}):
            with pytest.raises(SurgeryError, match="context or a mask"):
                network["one"](x, **given)
        if network["one"].__class__ is channel_funnel.FunneledAttention:
            channel_funnel.merge(network)
