"""**Source** paper Sec. 3.2 (row "+ low-resolution finetuning"), SVD's denoising loss · **Changes** weights only.

**Keeps** the loss is the unit-weight v-loss (``tests/method/test_low_resolution.py``) · **Axes** B F C H W.
Deviates: two choices, at ``drop_conditions`` and ``augment``.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from mobilevd.settings import Finetune, LogNormal
from mobilevd.shapes import Latents, Sigmas
from mobilevd.svd.edm import Condition, denoise, loss_weight, over_frames

Image = Float[Tensor, "B C H W"]


class Draws(NamedTuple):
    """The random part of one step: noise levels, noise, and the condition as this step shows it."""

    sigma: Sigmas
    noise: Latents
    condition: Condition


def draw(x0: Latents, condition: Condition, settings: Finetune, image_std: float, generator: Generator) -> Draws:
    """Draw σ, ε and σ_c, augment the image latents, then drop the condition of some clips."""
    batch, device = x0.shape[0], x0.device
    sigma = lognormal(batch, settings.sigma, generator).to(device)
    noise = torch.randn(x0.shape, generator=generator).to(device)
    sigma_c = lognormal(batch, settings.augmentation, generator).to(device)
    shown = drop_conditions(augment(condition, sigma_c, image_std, generator), settings.conditioning_dropout, generator)
    return Draws(sigma, noise, shown)


def loss(unet: nn.Module, x0: Latents, draws: Draws) -> Float[Tensor, ""]:
    """(1) E λ(σ) ‖D(x0 + σ ε; σ, c) − x0‖², averaged over every element."""
    return weighted(estimate(unet, x0, draws), x0, draws.sigma)


def estimate(unet: nn.Module, x0: Latents, draws: Draws) -> Latents:
    """D(x0 + σ ε; σ, c)."""
    return denoise(unet, x0 + over_frames(draws.sigma) * draws.noise, draws.sigma, *draws.condition)


def weighted(x: Latents, x0: Latents, sigma: Sigmas) -> Float[Tensor, ""]:
    """λ(σ) ‖x − x0‖², averaged over every element."""
    return (over_frames(loss_weight(sigma)) * (x - x0) ** 2).mean()


def lognormal(batch: int, ln: LogNormal, generator: Generator) -> Sigmas:
    """σ (B,) with ln σ ~ N(mean, std²)."""
    return (ln.mean + ln.std * torch.randn(batch, generator=generator)).exp()


def quantiles(count: int, ln: LogNormal) -> Sigmas:
    """``count`` fixed noise levels at the middles of equally likely intervals: a validation grid without chance."""
    middles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return (ln.mean + ln.std * torch.special.ndtri(middles)).exp().float()


def drop_conditions(condition: Condition, share: float, generator: Generator) -> Condition:
    """Zero the image token and the image latents *together* on a ``share`` of the clips.

    Deviates: SVD's published conditioner can drop either alone; both together is the only unconditional state that its
    sampler ever asks for, and a short finetuning cannot afford to teach two states that nobody uses.
    """
    kept = (torch.rand(condition.tokens.shape[0], generator=generator) >= share).to(condition.tokens)
    image_latents = condition.image_latents * kept[:, None, None, None]
    return Condition(image_latents, condition.tokens * kept[:, None, None], condition.ids)


def augment(condition: Condition, sigma_c: Sigmas, image_std: float, generator: Generator) -> Condition:
    """Add noise of σ_c times the raw latents' spread to the image latents, and tell the network σ_c.

    Deviates: SVD adds the noise to the pixels before the autoencoder. Training reads cached latents and never encodes,
    so the noise goes to the latents: at σ_c ≈ 0.05 both are a mild blur of the same relative strength.
    """
    noise = torch.randn(condition.image_latents.shape, generator=generator).to(condition.image_latents)
    noisy = condition.image_latents + sigma_c[:, None, None, None] * image_std * noise
    return Condition(noisy, condition.tokens, torch.cat([condition.ids[:, :2], sigma_c[:, None]], dim=1))
