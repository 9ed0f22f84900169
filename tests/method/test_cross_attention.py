"""One context token: the rewritten blocks compute what the originals compute, and hold fewer weights."""

import copy

import pytest
import torch

from mobilevd.errors import SurgeryError
from mobilevd.method import cross_attention
from mobilevd.method.cross_attention import OneTokenBlock, OneTokenTemporalBlock
from mobilevd.svd.unet import BasicTransformerBlock, TemporalBasicTransformerBlock


def blocks_of(unet: torch.nn.Module, *kinds: type) -> dict[str, torch.nn.Module]:
    return {name: module for name, module in unet.named_modules() if isinstance(module, kinds)}


@torch.no_grad()
def test_rewritten_blocks_equal_the_original_blocks(build, relative):
    before, after = build(), build()
    assert cross_attention.apply(after) == {"op": "cross_attention"}
    random = lambda *shape: torch.randn(*shape, dtype=torch.float64)  # noqa: E731
    for name, block in blocks_of(before, BasicTransformerBlock).items():
        x, c = random(6, 5, block.dim), random(6, 1, 16)
        rewritten = after.get_submodule(name)(x, encoder_hidden_states=c)
        assert relative(rewritten, block(x, encoder_hidden_states=c)) <= 1e-12
    for name, block in blocks_of(before, TemporalBasicTransformerBlock).items():
        x, c = random(6, 5, block.norm1.normalized_shape[0]), random(2, 1, 16).repeat_interleave(5, dim=0)
        rewritten = after.get_submodule(name)(x, num_frames=3, encoder_hidden_states=c)
        assert relative(rewritten, block(x, num_frames=3, encoder_hidden_states=c)) <= 1e-12


@torch.no_grad()
def test_attention_to_one_token_is_the_formula(build, relative):
    unet, c = build(), torch.randn(3, 1, 16, dtype=torch.float64)
    attn2 = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    expected = c @ attn2.to_v.weight.T @ attn2.to_out[0].weight.T + attn2.to_out[0].bias
    original = attn2(torch.randn(3, 7, 64, dtype=torch.float64), encoder_hidden_states=c)
    cross_attention.apply(unet)
    rewritten = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    assert relative(original, expected.expand(3, 7, 64)) <= 1e-12
    assert relative(rewritten(c), expected) <= 1e-12
    assert torch.equal(rewritten(torch.zeros_like(c)), rewritten.to_out[0].bias.expand(3, 1, 64))


@torch.no_grad()
def test_the_whole_network_is_unchanged(build, inputs, relative):
    before, after = build(), build()
    cross_attention.apply(after)
    assert relative(after(*inputs()), before(*inputs())) <= 1e-12


def test_queries_keys_and_their_norm_are_gone_and_other_keys_stay(build):
    before, after = build(), build()
    cross_attention.apply(after)
    gone = before.state_dict().keys() - after.state_dict().keys()
    assert all(key.rsplit(".", 1)[0].endswith(("attn2.to_q", "attn2.to_k", "norm2")) for key in gone)
    assert len(gone) == 4 * len(blocks_of(before, BasicTransformerBlock, TemporalBasicTransformerBlock))
    assert after.state_dict().keys() <= before.state_dict().keys()
    assert len(blocks_of(after, OneTokenBlock)) == len(blocks_of(after, OneTokenTemporalBlock)) == 10


def test_more_than_one_token_is_refused(build, inputs):
    unet = build()
    cross_attention.apply(unet)
    sample, timestep, context, ids = inputs()
    with pytest.raises(SurgeryError, match="2 tokens"):
        unet(sample, timestep, context.repeat(1, 2, 1), ids)


def test_rewriting_twice_is_refused(build):
    unet = build()
    cross_attention.apply(unet)
    with pytest.raises(SurgeryError, match="no cross-attention left"):
        cross_attention.apply(unet)


def test_what_is_no_plain_cross_attention_of_svd_is_refused_and_left_whole(build):
    unet = build()
    attn2 = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    attn2.set_processor(lambda *args, **told: None)
    with pytest.raises(SurgeryError, match=r"mid_block\.attentions\.0\.transformer_blocks\.0\.attn2 has a processor"):
        cross_attention.apply(unet)
    assert unet.state_dict().keys() == build().state_dict().keys()
    with pytest.raises(SurgeryError, match=r"SVD's own network\n.*ModuleList"):
        cross_attention.apply(torch.nn.ModuleList(build().down_blocks))


def test_gradients_equal_the_originals_and_frozen_weights_stay_frozen(build, inputs, relative):
    before, after = build(), build()
    cross_attention.apply(after)
    after.conv_in.requires_grad_(False)
    before(*inputs()).square().sum().backward()
    after(*inputs()).square().sum().backward()
    expected = {name: p.grad for name, p in before.named_parameters()}
    for name, p in after.named_parameters():
        if name.startswith("conv_in"):
            assert p.grad is None
        elif expected[name].norm() > 1e-6:
            assert relative(p.grad, expected[name]) <= 1e-9, name


def test_checkpointed_training_gives_the_same_gradients(build, inputs, relative):
    unet = build()
    cross_attention.apply(unet)
    checkpointed = copy.deepcopy(unet).train()
    checkpointed.enable_gradient_checkpointing()
    unet(*inputs()).square().sum().backward()
    checkpointed(*inputs()).square().sum().backward()
    assert relative(checkpointed.conv_in.weight.grad, unet.conv_in.weight.grad) <= 1e-12
