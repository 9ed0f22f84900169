"""Half the height and width inside, all of them outside, odd sizes included."""

import itertools

import pytest
import torch
from one_step import edited, feeds

from mobilevd.device import export
from mobilevd.device.inputs import one_step
from mobilevd.device.one_clip import OneClip, unbatched
from mobilevd.errors import SurgeryError
from mobilevd.method import spatial_multiscale, surgery, temporal_multiscale
from mobilevd.method.spatial_multiscale import DOWN, DoubleSpace, HalveSpace
from mobilevd.svd.sampler import OneStep
from mobilevd.svd.unet import config_of

PICTURE = [[1.0, 3.0, -5.0], [2.0, 6.0, -7.0], [4.0, 0.0, -9.0]]


@pytest.mark.parametrize(
    ("down", "expected"),
    [
        ("max", [[6.0, -5.0], [4.0, -9.0]]),
        ("average", [[3.0, -6.0], [2.0, -9.0]]),
        ("stride", [[1.0, -5.0], [4.0, -9.0]]),
    ],
)
def test_squares_are_halved_and_an_odd_edge_by_what_is_there(down, expected):
    assert HalveSpace(down)(torch.tensor([[PICTURE]])).tolist() == [[expected]]


@pytest.mark.parametrize("down", DOWN)
@pytest.mark.parametrize("size", [(4, 6), (5, 6), (4, 7), (5, 7), (1, 2)])
def test_sizes_go_down_and_come_back(size, down):
    x = torch.arange(6.0 * size[0] * size[1]).reshape(2, 3, *size)
    halved = HalveSpace(down)(x)
    assert halved.shape == (2, 3, (size[0] + 1) // 2, (size[1] + 1) // 2)
    doubled = DoubleSpace()(halved, size)
    rows, columns = ([i // 2 for i in range(n)] for n in size)
    assert torch.equal(doubled, halved[:, :, rows][..., columns])


@pytest.mark.parametrize(("height", "width"), [(16, 8), (12, 20), (13, 9)])
@torch.no_grad()
def test_the_network_keeps_keys_and_size_and_works_on_half(build, inputs, height, width):
    unet, seen = build(torch.float32), []
    sample, *rest = inputs(dtype=torch.float32)
    sample = torch.nn.functional.interpolate(sample.flatten(0, 1), (height, width)).unflatten(0, (2, 4))
    before, plain = list(unet.state_dict()), unet(sample, *rest)
    unet.down_blocks[1].register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[2:]))
    unet.up_blocks[-1].register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[2:]))
    unet(sample, *rest)
    assert spatial_multiscale.apply(unet, "max") == {"op": "spatial_multiscale", "down": "max"}
    out = unet(sample, *rest)
    assert list(unet.state_dict()) == before
    assert out.shape == plain.shape
    assert not torch.equal(out, plain)
    inside, outside, halved_inside, halved_outside = seen
    assert tuple(halved_inside) == tuple((n + 1) // 2 for n in inside)
    assert halved_outside == outside == (height, width)


@torch.no_grad()
def test_a_flat_network_of_pointwise_weights_is_halved_without_loss(build, inputs):
    """Where a frame's positions are all equal and no convolution looks beside itself, halving changes nothing."""
    unet = build()
    for module in unet.modules():
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3):
            middle = module.weight[:, :, 1:2, 1:2].clone()
            module.weight.zero_()[:, :, 1:2, 1:2] = middle
        if isinstance(module, torch.nn.GroupNorm):
            module.eps = 1.0  # nothing varies inside a channel: a small one would magnify rounding
    sample, *rest = inputs()
    flat = sample[..., :1, :1].expand(-1, -1, -1, 16, 8)
    plain = unet(flat, *rest)
    spatial_multiscale.apply(unet, "average")
    torch.testing.assert_close(unet(flat, *rest), plain, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_both_multiscalings_give_the_same_network_in_either_order(build, inputs):
    edits = {"time": temporal_multiscale.apply, "space": spatial_multiscale.apply}
    outputs = []
    for order in itertools.permutations(edits):
        unet = build(torch.float32)
        log = [edits[name](unet, "average") for name in order]
        outputs.append(unet(*inputs(frames=5, dtype=torch.float32)))
        rebuilt = surgery.rebuild(config_of(unet), log)
        rebuilt.load_state_dict(unet.state_dict(), strict=True)
        assert torch.equal(rebuilt.float()(*inputs(frames=5, dtype=torch.float32)), outputs[-1])
    assert torch.equal(*outputs)
    unet = build(torch.float32)
    spatial_multiscale.apply(unet, "average")
    assert not torch.equal(unet(*inputs(frames=5, dtype=torch.float32)), outputs[0])


def test_gradients_pass_both_points_and_frozen_weights_stay_frozen(build, inputs):
    unet = build()
    spatial_multiscale.apply(unet, "max")
    unet.mid_block.requires_grad_(False)
    unet(*inputs()).square().sum().backward()
    assert unet.conv_in.weight.grad.norm() > 0
    assert unet.down_blocks[2].resnets[0].temporal_res_block.conv1.weight.grad.norm() > 0
    assert all(p.grad is None for p in unet.mid_block.parameters())


@pytest.mark.slow
def test_exported_one_step_network_is_torchs(tmp_path):
    """6 x 10 latents are 3 x 5 after down block 0: an odd size in the graph too."""
    unet, _ = edited()
    spatial_multiscale.apply(unet, "average")
    network = OneStep(unet).eval().requires_grad_(False)
    spec = one_step(frames=5, channels=4, height=6, width=10, token_dim=16)
    export.export(OneClip(unet), spec, tmp_path / "network.onnx", opset=18)
    assert export.parity_db(unbatched(network), tmp_path / "network.onnx", spec, feeds(1, spec)) > 90.0


def test_impossible_edits_are_refused(build):
    unet = build()
    with pytest.raises(SurgeryError, match="median"):
        spatial_multiscale.apply(unet, "median")
    with pytest.raises(SurgeryError, match="SVD's own network"):
        spatial_multiscale.apply(unet.mid_block)
    spatial_multiscale.apply(unet, "stride")
    with pytest.raises(SurgeryError, match="already rescaled"):
        spatial_multiscale.apply(unet, "stride")
