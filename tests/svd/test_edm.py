import math

import pytest
import torch
from torch import nn

from mobilevd.svd import edm

SIGMAS = [0.002, 0.05, 1.0, 2.27, 70.5, 700.0]


class Recorder(nn.Module):
    """Stands where the network stands: remembers its inputs, answers with a fixed field."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, sample, timestep, encoder_hidden_states, added_time_ids):
        self.seen = (sample, timestep, encoder_hidden_states, added_time_ids)
        return self.answer


def _inputs(batch=2, frames=3, channels=4):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch, frames, channels, 4, 4, generator=g)
    image = torch.randn(batch, channels, 4, 4, generator=g)
    return x, image, torch.randn(batch, 1, 8, generator=g), torch.randn(batch, 3, generator=g)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_coefficients_equal_svds_formulas(sigma):
    c_skip, c_out, c_in, c_noise = (float(c) for c in edm.precondition(torch.tensor([sigma])))
    assert c_skip == pytest.approx(1 / (sigma**2 + 1), rel=1e-5)
    assert c_out == pytest.approx(-sigma / math.sqrt(sigma**2 + 1), rel=1e-5)
    assert c_in == pytest.approx(1 / math.sqrt(sigma**2 + 1), rel=1e-5)
    assert c_noise == pytest.approx(math.log(sigma) / 4, rel=1e-5)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_loss_weight_makes_unit_weight_on_the_v_target(sigma):
    assert float(edm.loss_weight(torch.tensor([sigma]))) == pytest.approx((1 + sigma**2) / sigma**2, rel=1e-5)
    c_out = float(edm.precondition(torch.tensor([sigma])).c_out)
    assert float(edm.loss_weight(torch.tensor([sigma]))) * c_out**2 == pytest.approx(1.0, rel=1e-5)


def test_coefficients_are_float32_whatever_sigma_is():
    assert all(c.dtype == torch.float32 for c in edm.precondition(torch.tensor([700.0], dtype=torch.float16)))


def test_denoise_combines_skip_and_network_with_each_samples_own_sigma():
    x, image, tokens, ids = _inputs()
    answer = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    out = edm.denoise(Recorder(answer), x, torch.tensor([0.5, 30.0]), image, tokens, ids)
    for b, s in enumerate([0.5, 30.0]):
        expected = x[b] / (s**2 + 1) - s / math.sqrt(s**2 + 1) * answer[b]
        torch.testing.assert_close(out[b], expected, rtol=1e-5, atol=1e-6)


def test_denoise_feeds_scaled_latents_and_the_unscaled_image_on_every_frame():
    x, image, tokens, ids = _inputs()
    network = Recorder(torch.zeros_like(x))
    edm.denoise(network, x, torch.tensor([2.0, 2.0]), image, tokens, ids)
    sample, timestep, seen_tokens, seen_ids = network.seen
    torch.testing.assert_close(sample[:, :, :4], x / math.sqrt(5))
    assert all(torch.equal(sample[:, f, 4:], image) for f in range(3))
    torch.testing.assert_close(timestep, torch.full((2,), math.log(2) / 4))
    assert seen_tokens is tokens
    assert seen_ids is ids


def test_a_perfect_v_prediction_returns_the_clean_latents():
    x0, image, tokens, ids = _inputs()
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(2))
    sigma = torch.tensor([0.3, 20.0])
    s = sigma[:, None, None, None, None]
    x_t = x0 + s * noise
    v = (x_t / (s**2 + 1) - x0) * (s**2 + 1).sqrt() / s
    torch.testing.assert_close(edm.denoise(Recorder(v), x_t, sigma, image, tokens, ids), x0, rtol=1e-3, atol=1e-4)
