"""The pocket autoencoder: SVD's class on 16x16 space-to-depth pixels, 16x smaller on each side, 8 latent channels.

Loss: L1 on pixels + L1 on their gradients (edges) + a small KL; crops of three frames teach the temporal layers.
"""

from pathlib import Path

import corpus
import torch
import torch.nn.functional as F
from resumable import Plan, train
from torch import Tensor, nn

from mobilevd.svd.upstream import AutoencoderKLTemporalDecoder

PATCH, LATENTS, GROUPS = 16, 8, 32
CONFIG = {
    "in_channels": 3 * PATCH**2,
    "out_channels": 3 * PATCH**2,
    "down_block_types": ("DownEncoderBlock2D",),
    "block_out_channels": (96,),
    "layers_per_block": 1,
    "latent_channels": LATENTS,
    "sample_size": 64,
    "force_upcast": False,
}
FRAMES, HEIGHT, WIDTH = 3, 256, 256
CLIPS_PER_STEP = 1
ANCHOR = 12.0


def train_autoencoder(paths: list[Path], plan: Plan, folder: Path) -> AutoencoderKLTemporalDecoder:
    """Train on random crops of the corpus and set the scaling factor that gives the latents unit variance."""
    torch.manual_seed(plan.seed)
    vae = AutoencoderKLTemporalDecoder(**CONFIG)
    clips = [corpus.load(path) for path in paths]
    _start_linear(vae, clips)
    averaged = train(vae, lambda generator: _loss(vae, _crops(clips, generator), generator), plan, folder)
    averaged.register_to_config(scaling_factor=round(1 / _spread(averaged, clips), 5))
    return averaged


@torch.no_grad()
def _start_linear(vae: AutoencoderKLTemporalDecoder, clips: list[Tensor]) -> None:
    """Start as the best linear autoencoder: the first principal components of 16 x 16 patches, in closed form.

    A latent's variance is its component's standard deviation: coarse brightness stays louder than fine detail, yet not
    as loud as in the pixels. Every block begins as the identity. A component a crosses the last normalisation and SiLU
    unharmed as the triple (a, −a, K): the constant K rules the group's spread, and silu(x) − silu(−x) = x.
    """
    mean, basis, spread = _principal_components(clips)
    for name, module in vae.named_modules():
        if name.endswith(("conv2", "to_out.0")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.dirac_(vae.decoder.time_conv_out.weight)
    nn.init.zeros_(vae.decoder.time_conv_out.bias)
    nn.init.dirac_(vae.quant_conv.weight)
    nn.init.zeros_(vae.quant_conv.bias)
    vae.quant_conv.bias[LATENTS:] = -6.0
    scale = spread.sqrt() * spread[:LATENTS].mean().sqrt()
    project = basis / scale[:, None]
    _to_triples(vae.encoder.conv_in, project, -project @ mean)
    _from_triples(vae.encoder, torch.eye(2 * LATENTS, len(basis))[:, :LATENTS], torch.zeros(2 * LATENTS))
    _to_triples(vae.decoder.conv_in, torch.eye(LATENTS), torch.zeros(LATENTS))
    _from_triples(vae.decoder, (basis * scale[:, None])[:LATENTS].T, mean)


def _principal_components(clips: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (768,), components (32, 768) and their standard deviations (32,) of pixel patches in [-1, 1]."""
    count, total, products = 0, 0.0, 0.0
    for clip in clips:  # one at a time: all patches at once would be gigabytes
        patches = F.pixel_unshuffle(clip[[0, 7]].double() / 127.5 - 1, PATCH).transpose(0, 1).flatten(1)
        count, total, products = count + patches.shape[1], total + patches.sum(1), products + patches @ patches.T
    mean = total / count
    values, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))
    top = slice(-GROUPS, None)
    return mean.float(), vectors[:, top].flip(1).T.float(), values[top].flip(0).sqrt().float()


def _to_triples(conv: nn.Conv2d, rows: Tensor, offsets: Tensor) -> None:
    """Make ``conv`` put out (a, −a, K) for every component a = row · x + offset, in its first groups."""
    conv.weight[:, :, 1, 1] *= 0.1
    for k, (row, offset) in enumerate(zip(rows, offsets, strict=True)):
        conv.weight[3 * k : 3 * k + 3] = 0
        conv.weight[3 * k, :, 1, 1], conv.weight[3 * k + 1, :, 1, 1] = row, -row
        conv.bias[3 * k : 3 * k + 3] = torch.stack([offset, -offset, torch.tensor(ANCHOR)])


def _from_triples(half: nn.Module, columns: Tensor, offset: Tensor) -> None:
    """Make the last convolution of an encoder or decoder put out columns @ a + offset from the triples."""
    spread = ANCHOR * 2**0.5 / 3
    half.conv_norm_out.bias[: 3 * columns.shape[1]] = ANCHOR / 3 / spread
    nn.init.zeros_(half.conv_out.weight)
    for k, column in enumerate(columns.T):
        half.conv_out.weight[:, 3 * k, 1, 1] = column * spread
        half.conv_out.weight[:, 3 * k + 1, 1, 1] = -column * spread
    half.conv_out.bias.copy_(offset)


def _crops(clips: list[Tensor], generator: torch.Generator) -> Tensor:
    def draw(bound: int) -> int:
        return int(torch.randint(bound, (1,), generator=generator))

    crops = []
    for _ in range(CLIPS_PER_STEP):
        clip = clips[draw(len(clips))]
        f, y, x = draw(14 - FRAMES + 1), draw(256 - HEIGHT + 1), draw(512 - WIDTH + 1)
        crops.append(clip[f : f + FRAMES, :, y : y + HEIGHT, x : x + WIDTH])
    return torch.cat(crops).float() / 127.5 - 1


def _loss(vae: AutoencoderKLTemporalDecoder, pixels: Tensor, generator: torch.Generator) -> Tensor:
    posterior = vae.encode(F.pixel_unshuffle(pixels, PATCH)).latent_dist
    raw = posterior.sample(generator)
    made = F.pixel_shuffle(vae.decode(raw, num_frames=FRAMES).sample, PATCH)
    return F.l1_loss(made, pixels) + edges(made, pixels) + 1e-6 * posterior.kl().mean()


def edges(made: Tensor, pixels: Tensor) -> Tensor:
    """L1 on the differences of neighbouring pixels, B 3 H W."""
    return sum(F.l1_loss(made.diff(dim=axis), pixels.diff(dim=axis)) for axis in (-1, -2))


@torch.no_grad()
def _spread(vae: AutoencoderKLTemporalDecoder, clips: list[Tensor]) -> float:
    """Standard deviation of the raw latents of first frames."""
    frames = torch.stack([clip[0] for clip in clips[::4]]).float() / 127.5 - 1
    return float(torch.cat([vae.encode(F.pixel_unshuffle(f, PATCH)).latent_dist.mode() for f in frames.split(8)]).std())
