"""Half the frames inside, all of them outside, odd counts included."""

import pytest
import torch

from mobilevd.errors import SurgeryError
from mobilevd.method import temporal_multiscale
from mobilevd.method.temporal_multiscale import DoubleFrames, HalveFrames


def frames_of(*values: float) -> torch.Tensor:
    """One clip of one-pixel frames holding ``values``."""
    return torch.tensor(values).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize(
    ("down", "expected"),
    [("max", [3.0, 5.0, -2.0]), ("average", [2.0, 4.5, -2.0]), ("stride", [1.0, 5.0, -2.0])],
)
def test_pairs_are_halved_and_an_odd_last_frame_stands_for_itself(down, expected):
    halved, frames = HalveFrames(down)(frames_of(1.0, 3.0, 5.0, 4.0, -2.0), 5)
    assert frames == 3
    assert halved.flatten().tolist() == expected


def test_clips_of_a_batch_do_not_mix():
    one, two = frames_of(1.0, 3.0, 2.0), frames_of(9.0, 8.0, 7.0)
    halved, frames = HalveFrames("max")(torch.cat([one, two]), 3)
    assert halved.flatten().tolist() == [3.0, 2.0, 9.0, 7.0]
    assert DoubleFrames()(halved, frames, 3).flatten().tolist() == [3.0, 3.0, 2.0, 9.0, 9.0, 7.0]


@pytest.mark.parametrize(("frames", "inner"), [(14, 7), (13, 7), (1, 1), (2, 1)])
def test_frame_counts_go_down_and_come_back(frames, inner):
    x = torch.arange(2.0 * frames).reshape(-1, 1, 1, 1)
    halved, count = HalveFrames("stride")(x, frames)
    assert count == inner
    doubled = DoubleFrames()(halved, count, frames).unflatten(0, (2, frames))
    assert torch.equal(doubled, x.unflatten(0, (2, frames))[:, [f // 2 * 2 for f in range(frames)]])


@pytest.mark.parametrize("frames", [4, 5])
@torch.no_grad()
def test_the_network_keeps_keys_and_output_frames_and_works_on_half(build, inputs, frames):
    unet, seen = build(torch.float32), {}
    before, given = list(unet.state_dict()), inputs(frames=frames, dtype=torch.float32)
    plain = unet(*given)
    assert temporal_multiscale.apply(unet, "max") == {"op": "temporal_multiscale", "down": "max"}
    unet.mid_block.register_forward_pre_hook(
        lambda module, args, told: seen.update(rows=args[0].shape[0], told=told), with_kwargs=True
    )
    out = unet(*given)
    assert list(unet.state_dict()) == before
    assert out.shape == plain.shape
    assert not torch.equal(out, plain)
    half = (frames + 1) // 2
    assert seen["rows"] == 2 * half
    assert seen["told"]["image_only_indicator"].shape == (2, half)
    assert seen["told"]["temb"].shape[0] == seen["told"]["encoder_hidden_states"].shape[0] == 2 * half


@torch.no_grad()
def test_a_still_network_input_is_halved_without_loss(build, inputs):
    """With every temporal layer switched off (α = 1) and equal frames, halving the frames changes nothing."""
    unet = build()
    for name, p in unet.named_parameters():
        if name.endswith("mix_factor"):
            p.fill_(1e4)
    sample, *rest = inputs()
    still = sample[:, :1].expand(-1, 4, -1, -1, -1)
    plain = unet(still, *rest)
    temporal_multiscale.apply(unet, "average")
    torch.testing.assert_close(unet(still, *rest), plain, rtol=1e-12, atol=1e-12)


def test_gradients_pass_both_points_and_frozen_weights_stay_frozen(build, inputs):
    unet = build()
    temporal_multiscale.apply(unet, "max")
    unet.mid_block.requires_grad_(False)
    unet(*inputs()).square().sum().backward()
    assert unet.conv_in.weight.grad.norm() > 0
    assert unet.down_blocks[2].resnets[0].temporal_res_block.conv1.weight.grad.norm() > 0
    assert all(p.grad is None for p in unet.mid_block.parameters())


def test_impossible_edits_are_refused(build):
    unet = build()
    with pytest.raises(SurgeryError, match="median"):
        temporal_multiscale.apply(unet, "median")
    with pytest.raises(SurgeryError, match="SVD's own network"):
        temporal_multiscale.apply(unet.mid_block)
    temporal_multiscale.apply(unet, "stride")
    with pytest.raises(SurgeryError, match="already rescaled"):
        temporal_multiscale.apply(unet, "stride")
