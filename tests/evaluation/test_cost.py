"""The count is 2 FLOPs per multiply-add with attention products, and the ladder is the paper's."""

import copy
import math
import types

import pytest
import torch
from torch import nn

from mobilevd.errors import SurgeryError
from mobilevd.evaluation import cost
from mobilevd.evaluation.cost import KINDS, count, kind, paper_keep
from mobilevd.method import channel_funnel, cross_attention, temporal_multiscale, temporal_pruning
from mobilevd.svd import reference
from mobilevd.svd.unet import Attention, VideoUNet

LATENTS = (2, 4, 4, 8, 16)


@pytest.fixture
def unet() -> VideoUNet:
    torch.manual_seed(0)
    return VideoUNet(
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


def operations_by_hand(unet: VideoUNet) -> int:
    """Run the network on real tensors and add up 2 x (multiply-adds) of every layer and attention product."""
    total = 0

    def layer(module, args, output):
        nonlocal total
        taps = math.prod(getattr(module, "kernel_size", ()))
        total += 2 * output.numel() * taps * args[0].shape[1 if taps > 1 or module.weight.ndim > 2 else -1]

    def attention(module, args, told, output):
        nonlocal total
        rows, queries, _ = args[0].shape
        context = told.get("encoder_hidden_states")
        keys = queries if context is None else context.shape[1]
        total += 4 * rows * queries * keys * module.to_q.out_features

    for module in unet.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            module.register_forward_hook(layer)
        elif isinstance(module, Attention):
            module.register_forward_hook(attention, with_kwargs=True)
    batch, frames, _, height, width = LATENTS
    with torch.no_grad():
        unet(
            torch.randn(batch, frames, 8, height, width),
            torch.ones(batch),
            torch.randn(batch, 1, 16),
            torch.ones(batch, 3),
        )
    return total


def test_count_is_two_per_multiply_add_with_attention_products(unet):
    cost = count(unet, LATENTS)
    assert cost.tflops * 1e12 == pytest.approx(operations_by_hand(unet), rel=1e-9)
    assert cost.params_m * 1e6 == pytest.approx(sum(p.numel() for p in unet.parameters()))


def test_counting_leaves_a_network_as_it_was_and_meta_weights_count_the_same(unet):
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    cost = count(unet, LATENTS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())
    assert count(unet.to("meta"), LATENTS) == cost


def test_every_edit_lowers_the_count(unet):
    costs = [count(unet, LATENTS)]
    cross_attention.apply(unet)
    costs.append(count(unet, LATENTS))
    temporal_multiscale.apply(unet)
    costs.append(count(unet, LATENTS))
    gates = temporal_pruning.attach(unet)
    gates.set((torch.arange(24) < 4).double())
    assert count(unet, LATENTS) == costs[-1]
    temporal_pruning.bake(unet, gates)
    costs.append(count(unet, LATENTS))
    channel_funnel.attach(unet, 0.5, "spatial", "csi")
    assert count(unet, LATENTS).params_m > costs[-1].params_m
    channel_funnel.merge(unet)
    costs.append(count(unet, LATENTS))
    assert [c.tflops for c in costs] == sorted({c.tflops for c in costs}, reverse=True)
    assert costs[1].params_m == costs[2].params_m
    assert len({c.params_m for c in costs}) == 4


def test_foreign_latents_are_refused(unet):
    with pytest.raises(SurgeryError, match="not this network's"):
        count(unet, (1, 4, 8, 8, 16))


def test_split_tells_every_kind_and_an_edit_changes_only_its_own(unet):
    plain = count(unet, LATENTS)
    assert set(plain.flops) == set(plain.params) == set(KINDS)
    assert all(plain.flops[name] > 0 and plain.params[name] > 0 for name in KINDS)
    cross_attention.apply(unet)
    after = count(unet, LATENTS)
    changed = {
        name for name in KINDS if (plain.flops[name], plain.params[name]) != (after.flops[name], after.params[name])
    }
    assert changed == {"cross-attention"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conv_in", "spatial convolution"),
        ("down_blocks.0.resnets.0.spatial_res_block.time_emb_proj.weight", "spatial convolution"),
        ("mid_block.resnets.1.temporal_res_block.norm2", "temporal ResBlocks"),
        ("mid_block.resnets.1.time_mixer.mix_factor", "temporal ResBlocks"),
        ("up_blocks.1.attentions.0.proj_in", "spatial attention"),
        ("up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.left", "spatial attention"),
        ("up_blocks.1.attentions.0.temporal_transformer_blocks.0.attn1", "temporal attention"),
        ("up_blocks.1.attentions.0.time_pos_embed.linear_1", "temporal attention"),
        ("up_blocks.1.attentions.0.temporal_transformer_blocks.0.attn2.to_v", "cross-attention"),
        ("up_blocks.1.attentions.0.transformer_blocks.0.ff.net.2", "feed-forward"),
        ("up_blocks.1.attentions.0.temporal_transformer_blocks.0.norm_in", "feed-forward"),
        ("up_blocks.0.upsamplers.0.conv", "resampling"),
        ("time_embedding.linear_1", "embeddings"),
    ],
)
def test_kind_of_a_layer_is_told_by_its_name(name, expected):
    assert kind(name) == expected


def test_the_papers_eleven_blocks_are_the_outer_transformers():
    unet = reference.unet()
    kept = paper_keep(unet)
    assert len(kept) == 11
    assert all(".attentions." in name for name in kept)
    assert sum(name.startswith(("down_blocks.0", "up_blocks.3", "down_blocks.1", "up_blocks.2")) for name in kept) == 10
    assert set(paper_keep(unet, 4)) < set(paper_keep(unet, 8)) < set(kept) < set(paper_keep(unet, 18))
    assert len(paper_keep(unet, 38)) == 38


def test_a_network_that_is_built_alike_is_walked_once_and_any_other_again(unet, monkeypatch):
    walked, walk = [], cost._walk
    monkeypatch.setattr(cost, "_WALKED", {})
    monkeypatch.setattr(cost, "_walk", lambda *of: walked.append(1) or walk(*of))
    first = count(unet, LATENTS)
    assert count(copy.deepcopy(unet).eval(), LATENTS) == first
    assert len(walked) == 1
    block = unet.down_blocks[0].resnets[0].spatial_res_block
    others = {
        "another clip": lambda: count(unet, (1, *LATENTS[1:])),
        "another type": lambda: count(copy.deepcopy(unet).half(), LATENTS),
        "a setting": lambda: (setattr(block, "output_scale_factor", 2.0), count(unet, LATENTS)),
        "a hook": lambda: (block.register_forward_hook(lambda _, __, out: out), count(unet, LATENTS)),
        "another forward": lambda: (setattr(block, "forward", forward), count(unet, LATENTS)),
    }
    forward = types.MethodType(lambda self, *given: type(self).forward(self, *given), block)
    for number, (what, again) in enumerate(others.items(), start=2):
        again()
        assert len(walked) == number, what


def test_every_edit_is_another_layout(unet):
    layouts = [cost.layout(unet)]
    for edit in (cross_attention.apply, temporal_multiscale.apply, lambda u: temporal_pruning.remove(u, []), funneled):
        edit(unet)
        layouts.append(cost.layout(unet))
    assert len(set(layouts)) == len(layouts)


def funneled(unet: VideoUNet) -> None:
    channel_funnel.narrow(unet, 0.5, "spatial")
