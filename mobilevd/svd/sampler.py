"""From noise to clean latents: SVD's sampler (Euler, Karras σ, guidance over frames), and one evaluation.

**Source** Karras et al. 2022, Eq. 5 and Alg. 1; SVD's settings (method: 25 steps x 2 passes = 50 evaluations). Guidance
above a noise level alone: Kynkäänniemi et al. 2024 (arXiv 2404.07724).
**Keeps** diffusers' Euler steps on the same noise (``tests/svd/test_sampler.py``). **Axes** B F C H W.
"""

import itertools
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mobilevd.shapes import AddedIds, Latents, Tokens
from mobilevd.svd import start
from mobilevd.svd.edm import denoise
from mobilevd.svd.scheduler import Schedule


def clip_noise(seeds: list[int], shape: tuple[int, int, int, int]) -> Latents:
    """Unit noise F C H W for every clip from its own seed: the same whatever the batch or the order."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.no_grad()
def sample(
    unet: nn.Module,
    image_latents: Float[Tensor, "B C H W"],
    tokens: Tokens,
    ids: AddedIds,
    noise: Latents,
    steps: int = 25,
    guidance: tuple[float, float] = (1.0, 3.0),
    guidance_above: float = 0.0,
    schedule: Schedule | None = None,
    on_step: Callable[[int], None] = lambda step: None,
) -> Latents:
    """The teacher: ``steps`` Euler steps over the base's schedule, guidance rising linearly from first frame to last.

    Each step costs two evaluations, one of them without image (zero token, zero image latents); at σ of at most
    ``guidance_above`` it costs one, with the image (``evaluations``).
    """
    scale = torch.linspace(*guidance, noise.shape[1], device=noise.device)[None, :, None, None, None]
    both = (torch.cat([torch.zeros_like(c), c]) for c in (image_latents, tokens))
    latents2, tokens2, ids2 = *both, torch.cat([ids, ids])
    sigmas = (schedule or Schedule()).sigmas(steps)
    guided, sigmas = _guided(sigmas, guidance_above), sigmas.to(noise.device)
    x = noise * (sigmas[0] ** 2 + 1).sqrt()
    for step, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        if guided[step]:
            without, x0 = denoise(unet, torch.cat([x, x]), sigma.expand(2 * len(x)), latents2, tokens2, ids2).chunk(2)
            x0 = without + scale * (x0 - without)
        else:
            x0 = denoise(unet, x, sigma.expand(len(x)), image_latents, tokens, ids)
        x = x + (following - sigma) * (x - x0) / sigma
        on_step(step)
    return x


def evaluations(schedule: Schedule, steps: int, guidance_above: float) -> int:
    """How often ``sample`` asks the network for one clip."""
    return steps + sum(_guided(schedule.sigmas(steps), guidance_above))


def _guided(sigmas: Float[Tensor, "K"], above: float) -> list[bool]:
    """Of every step."""
    return (sigmas[:-1] > above).tolist()


class OneStep(nn.Module):
    """The network that ships: one evaluation without guidance, from noise at σ_max (SF-V, Sec. 3) or its own start."""

    def __init__(self, unet: nn.Module):
        super().__init__()
        self.unet = unet

    def forward(self, noise: Latents, image_latents: Float[Tensor, "B C H W"], token: Tokens, ids: AddedIds) -> Latents:
        """Unit noise B F C H W, raw first-frame latents, image token and ids → clean scaled latents B F C H W."""
        begin = start.of(self.unet)
        sigma = torch.full((noise.shape[0],), begin.sigma, device=noise.device)
        return denoise(self.unet, begin(noise, image_latents), sigma, image_latents, token, ids)
