"""**Source** SF-V (arXiv 2406.04324): one-step generator against a discriminator, D negative for real.

**Changes** the heads' gradients are taken block by block, so that no two blocks' activations are kept at a time.
**Keeps** neither half's loss reaches the other half's weights (``tests/method/test_adversarial.py``).
Deviates: γ, c, the norm in L_rec and what R1 acts on are open there; ours stand at ``pseudo_huber`` and ``r1``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from mobilevd.settings import Adversarial, LogNormal
from mobilevd.shapes import Latents, Sigmas, Tokens
from mobilevd.svd.at_once import at_once
from mobilevd.svd.edm import Condition, denoise, over_frames
from mobilevd.svd.scheduler import Schedule

Scalar = Float[Tensor, ""]
Logits = list[Float[Tensor, "B _"]]
Maps = Float[Tensor, "B F _ _ _"]
Over = Literal["clip", "sum", "position"]
LEVELS = 1000
STEP, TINY = 3.0e-5, 1.0e-12  # of a difference, relative to the features; below it a gradient is none


class Draws(NamedTuple):
    """The random part of one step: the generator's σ and ε, the discriminator's σ' and its ε' for real and fake."""

    sigma: Sigmas
    noise: Latents
    d_sigma: Sigmas
    real_noise: Latents
    fake_noise: Latents


class GeneratorTerms(NamedTuple):
    """L_G, its parts, and the fakes' features, which the discriminator's turn reuses: its encoder is frozen."""

    loss: Scalar
    adversarial: Scalar
    reconstruction: Scalar
    fake_features: list[Maps]


class DiscriminatorTerms(NamedTuple):
    """L_D, and as values its parts and the mean logits on real and on fake clips."""

    loss: Scalar
    hinge: Scalar
    penalty: Scalar
    real: Scalar
    fake: Scalar


def grid() -> Float[Tensor, "1000"]:
    """The 1000-level EDM grid between SVD's σ_min and σ_max, rising."""
    return Schedule().sigmas(LEVELS)[:-1].flip(0)


def probabilities(ln: LogNormal) -> Float[Tensor, "999"]:
    """(1) Discretized lognormal: p_i ∝ Φ((ln σ_{i+1} − P_mean)/P_std) − Φ((ln σ_i − P_mean)/P_std)."""
    cumulative = torch.special.ndtr((grid().double().log() - ln.mean) / ln.std)
    return cumulative.diff() / cumulative.diff().sum()


def draw(x0: Latents, settings: Adversarial, generator: Generator) -> Draws:
    """σ uniform over the recipe's levels, σ' from the discretized lognormal, standard normal noises."""
    batch, device = x0.shape[0], x0.device
    level = torch.randint(len(settings.sigmas), (batch,), generator=generator)
    cell = torch.multinomial(probabilities(settings.discriminator_sigma), batch, replacement=True, generator=generator)
    noises = [torch.randn(x0.shape, generator=generator).to(device) for _ in range(3)]
    sigma, d_sigma = torch.tensor(settings.sigmas)[level], grid()[cell]
    return Draws(sigma.to(device), noises[0], d_sigma.to(device), noises[1], noises[2])


def generator_terms(
    unet: nn.Module, discriminator: nn.Module, x0: Latents, condition: Condition, draws: Draws, settings: Adversarial
) -> GeneratorTerms:
    """(2) L_G = w_adv E D(x̂0 + σ' ε') + w_rec L_rec; no gradient reaches the discriminator's weights."""
    fake = denoise(unet, x0 + over_frames(draws.sigma) * draws.noise, draws.sigma, *condition)
    with held(discriminator):
        features = discriminator.features(fake, draws.fake_noise, draws.d_sigma, condition)
        adversarial = _believed(discriminator, features, (draws.d_sigma, condition.tokens))
    rebuilt = reconstruction(fake, x0, settings)
    loss = settings.adversarial_weight * adversarial + settings.reconstruction_weight * rebuilt
    return GeneratorTerms(loss, adversarial, rebuilt, [f.detach() for f in features])


def discriminator_terms(
    discriminator: nn.Module,
    x0: Latents,
    fake_features: list[Maps],
    condition: Condition,
    draws: Draws,
    gamma: float,
    by_difference: bool = False,
) -> DiscriminatorTerms:
    """(3) L_D = E max(0, 1 + D(real')) + E max(0, 1 − D(fake')) + γ R1; γ = 0 leaves R1 out."""
    with torch.no_grad():
        features = discriminator.features(x0, draws.real_noise, draws.d_sigma, condition)
    told = draws.d_sigma, condition.tokens
    blocks = [
        _block(discriminator, k, maps, told, gamma, by_difference)
        for k, maps in enumerate(zip(features, fake_features, strict=True))
    ]
    return DiscriminatorTerms(*(torch.stack(values).mean() for values in zip(*blocks, strict=True)))


def _believed(discriminator: nn.Module, features: list[Maps], told: tuple[Sigmas, Tokens]) -> Scalar:
    """E D of fakes; its gradient reaches their features."""

    def block(k: int) -> Scalar:
        return at_once(lambda: (mean(discriminator.judge(k, features[k], *told)),), [features[k]])[0]

    return torch.stack([block(k) for k in range(len(features))]).mean()


def _block(
    discriminator: nn.Module, k: int, maps: tuple[Maps, Maps], told: tuple, gamma: float, by_difference: bool
) -> DiscriminatorTerms:
    """The terms of one block's heads on (real, fake) maps."""
    real, fake = maps[0].float().requires_grad_(gamma > 0), maps[1]
    heads, moving = lambda x: discriminator.judge(k, x, *told), list(discriminator.heads[k].parameters())

    def of_fake() -> tuple[Scalar, ...]:
        rows = heads(fake)
        return hinge(rows, -1), mean(rows)

    def of_real() -> tuple[Scalar, ...]:
        rows, penalty = heads(real), real.new_zeros(())
        if gamma > 0:
            penalty = r1_by_difference(heads, rows, real, moving) if by_difference else r1(rows, [real])
        return hinge(rows, 1) + gamma * penalty, penalty, mean(rows)

    fakes, fake_logit = at_once(of_fake, moving)
    reals, penalty, real_logit = at_once(of_real, moving)
    loss = fakes + reals
    return DiscriminatorTerms(loss, loss.detach() - gamma * penalty, penalty, real_logit, fake_logit)


def hinge(rows: Logits, sign: Literal[1, -1]) -> Scalar:
    """E max(0, 1 + sign D), taken at every logit, 1 for real and −1 for fake; each head counts the same."""
    return mean([(1 + sign * row).relu() for row in rows])


def mean(logits: Logits) -> Scalar:
    """The mean over heads of each head's mean logit."""
    return torch.stack([row.mean() for row in logits]).mean()


def reconstruction(estimate: Latents, x0: Latents, settings: Adversarial) -> Scalar:
    """L_rec with the recipe's c and norm."""
    return pseudo_huber(estimate, x0, settings.huber_c, settings.huber_over)


def pseudo_huber(estimate: Latents, x0: Latents, c: float, over: Over = "clip") -> Scalar:
    """(4) L_rec = √(‖x̂0 − x0‖²/d + c²) − c per clip, d its number of elements, averaged over clips.

    ``over``: "sum" leaves d out, as SF-V prints it: the same weight pulls √d times as hard (339 times at 14x4x32x64);
    c is of the whole clip's norm. "position" takes the norm over the channels of each position of each frame, so
    that places where the clip cannot be foreseen weigh less, and do not blur. SF-V does not say how it reduces.
    Deviates: divided by d by default, so that c and the weight mean the same at every latent size.
    """
    squared = (estimate - x0).square()
    if over == "position":
        squared = squared.mean(2)
    else:
        squared = squared.flatten(1).mean(1) if over == "clip" else squared.flatten(1).sum(1)
    return ((squared + c**2).sqrt() - c).mean()


def r1(real: Logits, features: list[Maps]) -> Scalar:
    """(5) Squared gradient of the summed logits on real clips, summed over channels, averaged over positions, blocks.

    Deviates: taken at the heads' inputs, not at the latents. The encoder between them is frozen, so the heads are all
    there is to smooth, and no second derivative of the whole encoder is needed.
    """
    gradients = torch.autograd.grad(sum(row.sum() for row in real), features, create_graph=True)
    return torch.stack([g.square().sum(2).mean() for g in gradients]).mean()


def r1_by_difference(heads: Callable[[Maps], Logits], real: Logits, features: Maps, moving: list[Tensor]) -> Scalar:
    """R1, (5), of one block without a second derivative: its value, and to O(STEP) its gradient for ``moving``.

    With v = ½ ∂R1/∂g held fast, ∂R1/∂θ = 2 ∂/∂θ (∇_v Σ logits), here a difference along v.
    """
    total = sum(row.sum() for row in real)
    (gradient,) = torch.autograd.grad(total, features, retain_graph=True)
    along = gradient * (gradient.shape[2] / gradient.numel())
    step = STEP * features.detach().norm() / along.norm().clamp_min(TINY)
    further = features.detach() + step * along
    (there,) = at_once(lambda: (sum(row.sum() for row in heads(further)),), moving)
    slope = (there - total) / step
    return (gradient * along).sum() + 2 * (slope - slope.detach())


@contextmanager
def held(module: nn.Module) -> Iterator[None]:
    """Inside, the module's parameters ask for no gradient; gradients still pass through it."""
    moving = [p for p in module.parameters() if p.requires_grad]
    for p in moving:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in moving:
            p.requires_grad_(True)
