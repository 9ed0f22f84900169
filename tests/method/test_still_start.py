"""A network that starts from the still clip: what it is given, what it says, and that it is found again as it was."""

import math

import pytest
import tiny_svd
import torch

from mobilevd.errors import SurgeryError
from mobilevd.method import still_start, surgery
from mobilevd.svd.sampler import OneStep
from mobilevd.svd.unet import VideoUNet

FRAMES, SIGMA, SCALE = 4, 5.0, 0.6


def network() -> VideoUNet:
    torch.manual_seed(1)
    return tiny_svd.unet(num_frames=FRAMES)


def given(seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    shapes = ((2, FRAMES, 4, 8, 8), (2, 4, 8, 8), (2, 1, tiny_svd.UNET["cross_attention_dim"]))
    noise, image, token = (torch.randn(shape, generator=g) for shape in shapes)
    return noise, image, token, torch.tensor([[6.0, 127.0, 0.02]]).repeat(2, 1)


@torch.no_grad()
def test_one_evaluation_denoises_the_still_clip_under_noise():
    unet, (noise, image, token, ids) = network(), given()
    still_start.apply(unet, SIGMA, SCALE)
    images = image.unsqueeze(1).repeat(1, FRAMES, 1, 1, 1)
    x, root = SCALE * images + SIGMA * noise, math.sqrt(SIGMA**2 + 1)
    raw = unet(torch.cat([x / root, images], dim=2), torch.full((2,), math.log(SIGMA) / 4), token, ids)
    expected = x / root**2 - SIGMA / root * raw
    torch.testing.assert_close(OneStep(unet)(noise, image, token, ids), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_where_it_starts_is_saved_and_found_again_with_the_network(tmp_path):
    unet = network()
    plain = OneStep(unet)(*given())
    keys = list(unet.state_dict())
    log = [still_start.apply(unet, SIGMA, SCALE)]
    assert log == [{"op": "still_start", "sigma": SIGMA, "image_scale": SCALE}]
    assert list(unet.state_dict()) == keys
    surgery.save(unet, log, tmp_path)
    again, read = surgery.load(tmp_path)
    assert read == log
    made = OneStep(unet)(*given())
    torch.testing.assert_close(OneStep(again)(*given()), made, rtol=1e-3, atol=1e-3)
    assert (made - plain).abs().max() > 0.1


def test_a_log_that_forgets_the_start_is_refused(tmp_path):
    unet = network()
    entry = still_start.apply(unet, SIGMA, SCALE)
    for log in ([], [entry | {"sigma": 6.0}], [entry | {"image_scale": 0.5}]):
        with pytest.raises(SurgeryError, match="not what its log of edits makes"):
            surgery.save(unet, log, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sigma", "scale", "said"),
    [(0.0, SCALE, "No noise"), (700.0, SCALE, "below 700"), (SIGMA, 0.0, "not be seen"), (math.nan, SCALE, "No noise")],
)
def test_a_start_that_is_none_is_refused(sigma, scale, said):
    unet = network()
    with pytest.raises(SurgeryError, match=said):
        still_start.apply(unet, sigma, scale)
    assert unet.start is None


def test_a_network_starts_once():
    unet = network()
    still_start.apply(unet, SIGMA, SCALE)
    with pytest.raises(SurgeryError, match="already"):
        still_start.apply(unet, 2.0, SCALE)
    assert unet.start.sigma == SIGMA
