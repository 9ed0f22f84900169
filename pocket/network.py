"""The pocket UNet: every block type of SVD's at small width, trained on cached latents by SVD's own denoising loss.

Level 0 is 64 wide: with 32 groups in every GroupNorm, 32 channels would lose each channel's mean colour at the output.
"""

import hashlib
from pathlib import Path

import corpus
import torch
from resumable import Plan, train
from safetensors.torch import load_file, save_file
from torch import Tensor

from mobilevd.method import low_resolution
from mobilevd.progress import track
from mobilevd.settings import Finetune, LogNormal, Optim
from mobilevd.svd.base import Base
from mobilevd.svd.conditioning import added_ids, image_tokens
from mobilevd.svd.edm import Condition
from mobilevd.svd.unet import VideoUNet

CONFIG = {
    "sample_size": 32,
    "in_channels": 16,
    "out_channels": 8,
    "block_out_channels": (64, 64, 96, 96),
    "layers_per_block": 1,
    "num_attention_heads": (2, 2, 3, 3),
    "cross_attention_dim": 64,
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 96,
    "num_frames": 14,
}
LOSS = Finetune(
    steps=1,
    optim=Optim(lr=1.0),
    sigma=LogNormal(mean=0.7, std=1.6),
    augmentation=LogNormal(mean=-3.0, std=0.5),
    conditioning_dropout=0.1,
)
FPS, MOTION_BUCKET = 7.0, 127
HALVES = 4


@torch.no_grad()
def encode(base: Base, paths: list[Path], folder: Path) -> Path:
    """Latents of every clip (scaled, N F C H W) and the tokens of its first and last frame (N 2 1 D), once."""
    path = folder / f"latents-{_encoders(base)}-{len(paths)}.safetensors"
    if not path.exists():
        latents, tokens = [], []
        for clip in track((corpus.load(p) for p in paths), len(paths), "encoding"):
            encoded = base.encode(clip)
            ends = clip[[0, -1]].float().div(255)
            latents.append(encoded["latents"])
            tokens.append(image_tokens(base.image_encoder, ends).half())
        save_file({"latents": torch.stack(latents).contiguous(), "tokens": torch.stack(tokens)}, path)
    return path


def _encoders(base: Base) -> str:
    """What the latents and tokens depend on; the decoder may go on learning without making them stale."""
    weights = [*base.vae.encoder.parameters(), *base.vae.quant_conv.parameters(), *base.image_encoder.parameters()]
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(weight.numpy().tobytes())
    return digest.hexdigest()[:12]


def fresh(seed: int) -> VideoUNet:
    """The network before any training."""
    torch.manual_seed(seed)
    return VideoUNet(**CONFIG)


def train_network(base: Base, unet: VideoUNet, encoded: Path, plan: Plan, folder: Path) -> VideoUNet:
    """Train on forward and reversed clips, one clip a step, most of the time on half its width."""
    clips = load_file(encoded)
    scale = base.vae.config.scaling_factor
    spread = float(clips["latents"][:, 0].float().std() / scale)

    def loss_at(generator: torch.Generator) -> Tensor:
        x0, condition = _clip(clips, scale, generator)
        return low_resolution.loss(unet, x0, low_resolution.draw(x0, condition, LOSS, spread, generator))

    return train(unet, loss_at, plan, folder)


def _clip(clips: dict[str, Tensor], scale: float, generator: torch.Generator) -> tuple[Tensor, Condition]:
    """One clip at random, played forward or backward; its first frame is the condition.

    Three times of four a random half of its width is shown: twice the clips for the same time.
    """
    width = clips["latents"].shape[-1]
    bounds = (len(clips["latents"]), 2, HALVES, width // 2 + 1)
    index, backward, part, left = (int(torch.randint(n, (1,), generator=generator)) for n in bounds)
    x0 = clips["latents"][index].float()[None]
    x0 = x0[..., left : left + width // 2] if part else x0
    x0 = x0.flip(1) if backward else x0
    token = clips["tokens"][index, backward].float()[None]
    return x0, Condition(x0[:, 0] / scale, token, added_ids(1, FPS, MOTION_BUCKET, 0.0))
