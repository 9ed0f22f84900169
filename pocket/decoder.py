"""The pocket decoder, taught by itself: the latents stay as they are, so the network need not be trained again.

Eight numbers cannot say all of 16x16 pixels. Pixels and edges alone make what is left out grey; LPIPS wants it to look
right, and small heads on its frozen features (as a projected GAN's) want it to look real. Clips are resized, mirrored,
recoloured and cut at random before they are encoded: few photographs are not to be learned by heart.
"""

from pathlib import Path

import corpus
import torch
import torch.nn.functional as F
from autoencoder import PATCH, edges
from resumable import Plan, train
from torch import Tensor, nn

from mobilevd.evaluation import lpips
from mobilevd.svd.upstream import AutoencoderKLTemporalDecoder
from mobilevd.training.precision import autocast, has

FRAMES, SIDE = 5, 256
SIZES = 0.5, 1.5
GAMMAS = 0.7, 1.4
MAX_LATENT_NOISE = 0.1
LOOKS, REAL = 1.0, 0.1
WIDTH = 64


class Taught(nn.Module):
    """The decoder and the heads that judge its frames: one hidden layer of 1x1 convolutions on each feature map."""

    def __init__(self, decoder: nn.Module):
        super().__init__()
        self.decoder = decoder
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Conv2d(layer[1], WIDTH, 1), nn.LeakyReLU(0.2), nn.Conv2d(WIDTH, 1, 1))
            for layer in lpips.LAYERS
        )


def train_decoder(vae: AutoencoderKLTemporalDecoder, paths: list[Path], plan: Plan, folder: Path) -> None:
    """Train the decoder of ``vae`` on the corpus and put the averaged one in its place."""
    vae.requires_grad_(False)
    torch.manual_seed(plan.seed)
    both = Taught(vae.decoder.requires_grad_(True))
    looks = lpips.load()

    def loss_at(generator: torch.Generator) -> Tensor:
        pixels = varied(_window(paths, generator), generator)
        with autocast("cpu", "bf16" if has("bf16") else "fp32"):
            made = _decoded(vae, both.decoder, _noisy(_encoded(vae, pixels), generator))
            return _loss(both.heads, looks, made, pixels)

    vae.decoder = train(both, loss_at, plan, folder).decoder


def varied(clip: Tensor, generator: torch.Generator) -> Tensor:
    """A part of ``clip`` (F 3 H W, in [-1, 1]) at another size, mirrored, its colours exchanged, lighter or darker.

    At most SIDE pixels high and SIDE² in all, both sides whole patches.
    """
    size, gamma = (_between(bounds, generator) for bounds in (SIZES, GAMMAS))
    clip = F.interpolate(clip, scale_factor=size, mode="bilinear", antialias=True)
    clip = _cut(clip, generator)
    clip = clip.flip(-1) if _draw(2, generator) else clip
    colours = torch.randperm(3, generator=generator)
    return (clip[:, colours] / 2 + 0.5).clamp(0, 1).pow(gamma) * 2 - 1


def _cut(clip: Tensor, generator: torch.Generator) -> Tensor:
    height, width = clip.shape[-2:]
    h = min(SIDE, height // PATCH * PATCH)
    w = min(SIDE**2 // h, width) // PATCH * PATCH
    y, x = _draw(height - h + 1, generator), _draw(width - w + 1, generator)
    return clip[..., y : y + h, x : x + w]


def _window(paths: list[Path], generator: torch.Generator) -> Tensor:
    clip = corpus.load(paths[_draw(len(paths), generator)])
    f = _draw(len(clip) - FRAMES + 1, generator)
    return clip[f : f + FRAMES].float() / 127.5 - 1


@torch.no_grad()
def _encoded(vae: AutoencoderKLTemporalDecoder, pixels: Tensor) -> Tensor:
    return vae.encode(F.pixel_unshuffle(pixels, PATCH)).latent_dist.mode().float() * vae.config.scaling_factor


def _noisy(latents: Tensor, generator: torch.Generator) -> Tensor:
    """With what a denoiser leaves in its samples: such noise flickers when a decoder has never met it."""
    strength = MAX_LATENT_NOISE * float(torch.rand(1, generator=generator))
    return latents + strength * torch.randn(latents.shape, generator=generator)


def _decoded(vae: AutoencoderKLTemporalDecoder, decoder: nn.Module, latents: Tensor) -> Tensor:
    still = torch.zeros(1, len(latents))
    made = decoder(latents / vae.config.scaling_factor, num_frames=len(latents), image_only_indicator=still)
    return F.pixel_shuffle(made, PATCH).float()


def _loss(heads: nn.ModuleList, looks: lpips.LPIPS, made: Tensor, pixels: Tensor) -> Tensor:
    """The decoder's loss, and the heads' hinge loss on what it made, whose gradient reaches the heads alone."""
    of_made, of_real = (looks.features((x + 1) / 2) for x in (made, pixels))
    seen, wanted = ([x * x.shape[1] ** 0.5 for x in features] for features in (of_made, of_real))
    exact = F.l1_loss(made, pixels) + edges(made, pixels) + F.l1_loss(made.diff(dim=0), pixels.diff(dim=0))
    fooled = -sum(_fooled(head, x) for head, x in zip(heads, seen, strict=True))
    told = sum(
        (1 - head(real)).relu().mean() + (1 + head(x.detach())).relu().mean()
        for head, x, real in zip(heads, seen, wanted, strict=True)
    )
    return exact + LOOKS * looks.apart(of_made, of_real).mean() + (REAL * fooled + told) / len(heads)


def _fooled(head: nn.Module, features: Tensor) -> Tensor:
    """How real the head takes the features to be; no gradient reaches the head."""
    fixed = {name: weight.detach() for name, weight in head.named_parameters()}
    return torch.func.functional_call(head, fixed, (features,)).mean()


def _between(bounds: tuple[float, float], generator: torch.Generator) -> float:
    """Drawn evenly on a logarithmic scale."""
    low, high = bounds
    return low * (high / low) ** float(torch.rand(1, generator=generator))


def _draw(bound: int, generator: torch.Generator) -> int:
    return int(torch.randint(bound, (1,), generator=generator))
