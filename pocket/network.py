"""The pocket UNet: every block type of SVD's at small width, trained on cached latents by SVD's own denoising loss.

It starts as the network that repeats the first frame where there is nothing but noise, and learns what moves. Level 0
is 96 wide for that: the three channels of a group carry one number through the last GroupNorm unharmed.
"""

import hashlib
from pathlib import Path

import corpus
import torch
from resumable import Plan, train
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mobilevd.method import low_resolution
from mobilevd.progress import track
from mobilevd.settings import Finetune, LogNormal, Optim
from mobilevd.svd import lean
from mobilevd.svd.base import Base
from mobilevd.svd.conditioning import added_ids, image_tokens
from mobilevd.svd.edm import Condition
from mobilevd.svd.unet import VideoUNet
from mobilevd.training.precision import autocast, has

ATTENTION = "CrossAttnDownBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"
PLAIN = "DownBlockSpatioTemporal", "UpBlockSpatioTemporal"
CONFIG = {
    "sample_size": 32,
    "in_channels": 16,
    "out_channels": 8,
    "block_out_channels": (96, 96, 64, 64),
    "down_block_types": (PLAIN[0], ATTENTION[0], ATTENTION[0], PLAIN[0]),
    "up_block_types": (PLAIN[1], ATTENTION[1], ATTENTION[1], PLAIN[1]),
    "layers_per_block": 1,
    "num_attention_heads": (3, 3, 2, 2),
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
ANCHOR, QUIET, LOUD, NOISY = 2.0, 8.0, 2.0, 0.25


@torch.no_grad()
def encode(base: Base, paths: list[Path], folder: Path) -> Path:
    """Latents of every clip (scaled, N F C H W) and the tokens of its first and last frame (N 2 1 D), once."""
    clips = hashlib.sha256("\n".join(path.name for path in paths).encode()).hexdigest()[:12]
    path = folder / f"latents-{_encoders(base)}-{clips}.safetensors"
    if not path.exists():
        latents, tokens = [], []
        for clip in track((corpus.load(p) for p in paths), len(paths), "encoding"):
            encoded = base.encode(clip)
            ends = clip[[0, -1]].float().div(255)
            latents.append(encoded["latents"])
            tokens.append(image_tokens(base.image_encoder, ends).half())
        save_file(
            {"latents": torch.stack(latents).contiguous(), "tokens": torch.stack(tokens)}, path.with_suffix(".part")
        )
        path.with_suffix(".part").replace(path)
    return path


def _encoders(base: Base) -> str:
    """What the latents and tokens depend on; the decoder may go on learning without making them stale."""
    weights = [*base.vae.encoder.parameters(), *base.vae.quant_conv.parameters(), *base.image_encoder.parameters()]
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(weight.numpy().tobytes())
    return digest.hexdigest()[:12]


def fresh(seed: int, scale: float) -> VideoUNet:
    """The network before any training; ``scale`` is the autoencoder's scaling factor."""
    torch.manual_seed(seed)
    unet = VideoUNet(**CONFIG)
    _start_frozen(unet, scale)
    return unet


@torch.no_grad()
def _start_frozen(unet: VideoUNet, scale: float) -> None:
    """Start with −(image latents) + NOISY · input as the output: D is the first frame and some noise at large σ.

    Each of the 16 input channels crosses the outermost skip, and the last normalisation and SiLU, as the triple
    (a, −a, K): the constant K rules the group's spread, and silu(x) − silu(−x) = x. Training may spend them otherwise.
    """
    inputs, outputs = CONFIG["in_channels"], CONFIG["out_channels"]
    kept = 3 * inputs
    gains = torch.tensor([1.0] * outputs + [scale] * outputs) / QUIET
    _only(unet.conv_in, kept, torch.stack([gains.diag(), -gains.diag(), 0 * gains.diag()], 1).flatten(0, 1))
    unet.conv_in.bias[2:kept:3] = ANCHOR
    last = unet.up_blocks[-1].resnets[-1]
    shortcut = last.spatial_res_block.conv_shortcut
    _only(shortcut, kept, torch.eye(shortcut.in_channels)[-unet.conv_in.out_channels :][:kept])
    for block in (last.spatial_res_block, last.temporal_res_block):
        block.conv2.weight[:kept], block.conv2.bias[:kept] = 0, 0
    unet.conv_norm_out.weight[:kept] = LOUD * QUIET * ANCHOR * 2**0.5 / 3
    unet.conv_norm_out.bias[:kept] = LOUD * QUIET * ANCHOR / 3
    unet.conv_norm_out.weight[2:kept:3], unet.conv_norm_out.bias[2:kept:3] = 0, 0
    unet.conv_out.weight *= 0.1
    unet.conv_out.weight[:, :kept] = 0
    middle, eye = unet.conv_out.weight[:, :kept, 1, 1], torch.eye(outputs) / LOUD
    middle[:, 0 : kept // 2 : 3], middle[:, 1 : kept // 2 : 3] = NOISY * eye, -NOISY * eye
    middle[:, kept // 2 :: 3], middle[:, kept // 2 + 1 :: 3] = -eye, eye
    nn.init.zeros_(unet.conv_out.bias)


def _only(conv: nn.Conv2d, kept: int, rows: Tensor) -> None:
    """Make the first ``kept`` outputs of ``conv`` those products of its inputs alone."""
    conv.weight[:kept], conv.bias[:kept] = 0, 0
    middle = conv.kernel_size[0] // 2
    conv.weight[:kept, :, middle, middle] = rows


def train_network(base: Base, unet: VideoUNet, encoded: Path, plan: Plan, folder: Path) -> VideoUNet:
    """Train on forward and reversed clips, one clip a step, on half its width: 256x256 pixels."""
    clips = load_file(encoded)
    scale = base.vae.config.scaling_factor
    spread = float(clips["latents"][:, 0].float().std() / scale)
    lean.arrange(unet)

    def loss_at(generator: torch.Generator) -> Tensor:
        x0, condition = _clip(clips, scale, generator)
        with autocast("cpu", "bf16" if has("bf16") else "fp32"):
            return low_resolution.loss(unet, x0, low_resolution.draw(x0, condition, LOSS, spread, generator))

    return lean.restore(train(unet, loss_at, plan, folder))


def _clip(clips: dict[str, Tensor], scale: float, generator: torch.Generator) -> tuple[Tensor, Condition]:
    """One clip at random, played forward or backward, a random half of its width; its first frame is the condition."""
    width = clips["latents"].shape[-1]
    bounds = (len(clips["latents"]), 2, width // 2 + 1)
    index, backward, left = (int(torch.randint(n, (1,), generator=generator)) for n in bounds)
    x0 = clips["latents"][index, ..., left : left + width // 2].float()[None]
    x0 = x0.flip(1) if backward else x0
    token = clips["tokens"][index, backward].float()[None]
    return x0, Condition(x0[:, 0] / scale, token, added_ids(1, FPS, MOTION_BUCKET, 0.0))
