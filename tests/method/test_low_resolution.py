import math

import pytest
import torch

from mobilevd.method import low_resolution
from mobilevd.settings import Finetune, LogNormal
from mobilevd.svd.edm import Condition

SETTINGS = Finetune(steps=1, optim={"lr": 1e-3})


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _condition(batch=4, dtype=torch.float32):
    g = _generator(1)
    image = torch.randn(batch, 4, 8, 8, generator=g).to(dtype)
    tokens = torch.randn(batch, 1, 16, generator=g).to(dtype)
    return Condition(image, tokens, torch.tensor([[6.0, 127.0, 0.02]], dtype=dtype).repeat(batch, 1))


def test_loss_is_the_unit_weight_loss_on_the_v_target(build):
    unet = build(torch.float32)
    x0, noise = torch.randn(2, 4, 4, 8, 8, generator=_generator(2)), torch.randn(2, 4, 4, 8, 8, generator=_generator(3))
    condition, sigma = _condition(2), torch.tensor([0.4, 9.0])
    got = low_resolution.loss(unet, x0, low_resolution.Draws(sigma, noise, condition))
    s = sigma[:, None, None, None, None]
    sample = torch.cat(
        [(x0 + s * noise) / (s**2 + 1).sqrt(), condition.image_latents[:, None].repeat(1, 4, 1, 1, 1)], 2
    )
    v = (noise - s * x0) / (s**2 + 1).sqrt()  # SVD's v-target: ε and −x0 turned by arctan σ
    predicted = unet(sample, sigma.log() / 4, condition.tokens, condition.ids)
    torch.testing.assert_close(got, ((predicted - v) ** 2).mean(), rtol=1e-4, atol=1e-5)


def test_sigmas_follow_the_lognormal():
    ln = low_resolution.lognormal(20000, LogNormal(mean=0.7, std=1.6), _generator()).log()
    assert float(ln.mean()) == pytest.approx(0.7, abs=0.05)
    assert float(ln.std()) == pytest.approx(1.6, abs=0.05)


def test_quantiles_are_the_middles_of_equally_likely_intervals():
    q = low_resolution.quantiles(3, LogNormal(mean=0.7, std=1.6)).log()
    shares = [0.5 * (1 + math.erf((float(v) - 0.7) / 1.6 / math.sqrt(2))) for v in q]
    assert shares == pytest.approx([1 / 6, 3 / 6, 5 / 6], abs=1e-5)


def test_dropped_clips_lose_token_and_image_together_and_keep_their_ids():
    condition = _condition(2000)
    dropped = low_resolution.drop_conditions(condition, 0.1, _generator())
    no_token = dropped.tokens.abs().sum((1, 2)) == 0
    no_image = dropped.image_latents.abs().sum((1, 2, 3)) == 0
    assert torch.equal(no_token, no_image)
    assert float(no_token.float().mean()) == pytest.approx(0.1, abs=0.03)
    assert torch.equal(dropped.tokens[~no_token], condition.tokens[~no_token])
    assert torch.equal(dropped.ids, condition.ids)


def test_augmentation_adds_noise_of_the_strength_that_the_ids_state():
    condition = _condition(64)
    sigma_c = torch.linspace(0.01, 1.0, 64)
    noisy = low_resolution.augment(condition, sigma_c, 5.5, _generator())
    assert torch.equal(noisy.ids[:, 2], sigma_c)
    assert torch.equal(noisy.ids[:, :2], condition.ids[:, :2])
    strength = (noisy.image_latents - condition.image_latents).std((1, 2, 3))
    torch.testing.assert_close(strength, 5.5 * sigma_c, rtol=0.25, atol=0.0)


def test_draws_are_a_function_of_the_generator():
    x0, condition = torch.zeros(3, 4, 4, 8, 8), _condition(3)
    first, again, other = (low_resolution.draw(x0, condition, SETTINGS, 1.0, _generator(seed)) for seed in (5, 5, 6))
    assert torch.equal(first.sigma, again.sigma)
    assert torch.equal(first.noise, again.noise)
    assert torch.equal(first.condition.image_latents, again.condition.image_latents)
    assert not torch.equal(first.noise, other.noise)
