"""The network's own forward equals diffusers' in every bit, and its frame points move what they should."""

import copy

import pytest
import tiny_svd
import torch
from diffusers import UNetSpatioTemporalConditionModel

from mobilevd.svd.unet import VideoUNet, config_of, temporal_blocks

CONFIG = tiny_svd.UNET | {"block_out_channels": (32, 32, 64, 64), "num_attention_heads": (1, 1, 2, 2), "num_frames": 4}


def build(seed: int = 0, **changes) -> VideoUNet:
    torch.manual_seed(seed)
    return VideoUNet(**{**CONFIG, **changes}).eval()


def inputs(batch: int = 2, frames: int = 4, height: int = 8, width: int = 8, dtype=torch.float32) -> tuple:
    generator = torch.Generator().manual_seed(1)
    random = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    ids = torch.tensor([[6.0, 127.0, 0.02]], dtype=dtype).repeat(batch, 1)
    return random(batch, frames, 8, height, width), random(batch), random(batch, 1, 16), ids


def keep_pairs(x: torch.Tensor, frames: int) -> tuple[torch.Tensor, int]:
    return x.unflatten(0, (-1, frames))[:, ::2].flatten(0, 1), (frames + 1) // 2


def repeat_pairs(x: torch.Tensor, inner: int, outer: int) -> torch.Tensor:
    return x.unflatten(0, (-1, inner)).repeat_interleave(2, dim=1)[:, :outer].flatten(0, 1)


@pytest.mark.parametrize(("height", "width", "layers"), [(8, 16, 1), (9, 13, 1), (16, 8, 2)])
@torch.no_grad()
def test_forward_equals_diffusers_bit_for_bit(height, width, layers):
    ours = build(layers_per_block=layers)
    theirs = UNetSpatioTemporalConditionModel(**{**CONFIG, "layers_per_block": layers}).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    given = inputs(height=height, width=width)
    assert torch.equal(ours(*given), theirs(*given, return_dict=False)[0])


def test_training_gradients_equal_diffusers_with_and_without_checkpointing():
    ours, theirs = build(), UNetSpatioTemporalConditionModel(**CONFIG)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    checkpointed = copy.deepcopy(ours).train()
    checkpointed.enable_gradient_checkpointing()
    given = inputs()
    ours(*given).square().sum().backward()
    theirs(*given, return_dict=False)[0].square().sum().backward()
    checkpointed(*given).square().sum().backward()
    for (name, a), b, c in zip(ours.named_parameters(), theirs.parameters(), checkpointed.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None) == (c.grad is None), name
        if a.grad is not None:
            assert torch.equal(a.grad, b.grad), name
            torch.testing.assert_close(a.grad, c.grad, rtol=1e-4, atol=1e-6, msg=name)


@torch.no_grad()
def test_encode_gives_the_four_features_that_forward_goes_through():
    unet, seen = build(), []
    for block in unet.down_blocks:
        block.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    given = inputs()
    unet(*given)
    expected, seen[:] = list(seen), []
    unet.mid_block.register_forward_pre_hook(lambda *_: pytest.fail("encode ran the mid block"))
    features = unet.encode(*given)
    assert [tuple(f.shape) for f in features] == [(8, 32, 4, 4), (8, 32, 2, 2), (8, 64, 1, 1), (8, 64, 1, 1)]
    assert all(torch.equal(a, b) for a, b in zip(features, expected, strict=True))


@pytest.mark.parametrize("frames", [4, 5])
@torch.no_grad()
def test_frame_points_halve_everything_between_them_and_nothing_else(frames):
    unet, rows = build(), {}
    unet.frame_down, unet.frame_up = keep_pairs, repeat_pairs
    watched = {
        "conv_in": unet.conv_in,
        "d1": unet.down_blocks[1].resnets[0],
        "mid": unet.mid_block.resnets[0],
        "u2": unet.up_blocks[2].resnets[0],
        "u3": unet.up_blocks[3].resnets[0],
    }
    for name, module in watched.items():
        module.register_forward_pre_hook(lambda m, args, name=name: rows.__setitem__(name, args[0].shape[0]))
    out = unet(*inputs(frames=frames))
    half = (frames + 1) // 2
    assert out.shape[1] == frames
    assert rows == {"conv_in": 2 * frames, "d1": 2 * half, "mid": 2 * half, "u2": 2 * half, "u3": 2 * frames}


@torch.no_grad()
def test_a_frame_point_may_be_a_module_and_adds_no_key():
    unet, calls = build(), []

    class Same(torch.nn.Module):
        def forward(self, x, frames):
            calls.append(frames)
            return x, frames

    keys, given = list(unet.state_dict()), inputs()
    before = unet(*given)
    unet.frame_down = Same()
    assert torch.equal(unet(*given), before)
    assert calls == [4]
    assert list(unet.state_dict()) == keys


def test_temporal_blocks_are_every_block_with_a_temporal_half():
    names = list(temporal_blocks(build()))
    assert len([n for n in names if ".resnets." in n]) == 14
    assert len([n for n in names if ".attentions." in n]) == 10
    assert "mid_block.attentions.0" in names


def test_config_is_loadable_by_diffusers():
    config = config_of(build())
    theirs = UNetSpatioTemporalConditionModel.from_config(config)
    assert theirs.state_dict().keys() == build().state_dict().keys()
    assert config["_class_name"] == "UNetSpatioTemporalConditionModel"
    assert VideoUNet.from_config(config).config.block_out_channels == config["block_out_channels"]
