"""A tiny one-step network that went through every edit of the method, and clips for it."""

from pathlib import Path

import tiny_svd
import torch
from safetensors.torch import save_file

from mobilevd.artifacts import StageRecord, seal
from mobilevd.device.inputs import GraphSpec, one_step
from mobilevd.method import channel_funnel, cross_attention, still_start, surgery, temporal_multiscale, temporal_pruning
from mobilevd.params import Recipe, check
from mobilevd.svd.sampler import OneStep
from mobilevd.svd.unet import VideoUNet, temporal_blocks

FRAMES = 5
CHANNELS, TOKEN_DIM = tiny_svd.UNET["out_channels"], tiny_svd.UNET["cross_attention_dim"]
CONFIG = tiny_svd.UNET | {
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
    "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    "block_out_channels": (32, 64),
    "num_attention_heads": (1, 2),
    "num_frames": FRAMES,
}
SPEC = one_step(frames=FRAMES, channels=CHANNELS, height=8, width=8, token_dim=TOKEN_DIM)


def edited(seed: int = 0) -> tuple[VideoUNet, list[dict]]:
    """Every edit: one token's attention, frames halved inside, a still start, half of the temporal blocks, funnels."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    unet = VideoUNet(**CONFIG).eval().requires_grad_(False)
    log = [cross_attention.apply(unet), temporal_multiscale.apply(unet), still_start.apply(unet, 5.0, 0.6)]
    log.append(temporal_pruning.remove(unet, list(temporal_blocks(unet))[::2]))
    channel_funnel.attach(unet, 0.5, "all", "csi", generator)
    log.append(channel_funnel.merge(unet))
    return unet, log


def step(seed: int = 0) -> OneStep:
    """The edited network as it ships."""
    return OneStep(edited(seed)[0]).eval().requires_grad_(False)


def feeds(count: int, spec: GraphSpec = SPEC, first_seed: int = 0) -> list[dict]:
    """Random latents, tokens and noise, and the ids of a 7 fps clip."""
    made = [spec.random(torch.Generator().manual_seed(first_seed + i)) for i in range(count)]
    for feed in made:
        feed["ids"][:] = [6.0, 127.0, 0.02]
    return made


def records(recipe: Recipe, folder: Path) -> dict[str, StageRecord]:
    """What the stages prepare and funnel would leave: latents of six and three clips, and the edited network."""
    latents = folder / "prepare" / "latents"
    latents.mkdir(parents=True)
    for seed, (side, count) in enumerate({"train": 6, "validation": 3}.items()):
        g = torch.Generator().manual_seed(seed)
        tensors = {
            "latents": torch.randn(count, 5, CHANNELS, 8, 8, generator=g).half(),
            "image_latents": torch.randn(count, CHANNELS, 8, 8, generator=g).half(),
            "tokens": torch.randn(count, 1, TOKEN_DIM, generator=g).half(),
        }
        save_file(tensors, latents / f"{side}.safetensors")
    surgery.save(*edited(), folder / "funnel" / "network")
    shared = {"recipe_digest": recipe.digest, "data_md5": "0" * 32}
    return {
        "prepare": StageRecord(stage="prepare", artifacts={"latents": seal(latents)}, **shared),
        "funnel": StageRecord(stage="funnel", artifacts={"network": seal(folder / "funnel" / "network")}, **shared),
    }


def recipe(**quantize) -> Recipe:
    """A recipe whose sections before quantization are filled in and never run."""
    optim = {"lr": 1.0e-3}
    adversarial = {"steps": 1, "generator": optim, "discriminator": optim}
    sections = {"distill": {"adversarial": adversarial}, "prune": {"keep": 1, "adversarial": adversarial}}
    sections |= {"funnel": {"adversarial": adversarial}, "finetune": {"steps": 1, "optim": optim}}
    values = {"calibration_clips": 3, **quantize}
    gates = [{"metric": "student.fvd", "max": 1.0}]
    profile = {"warmup": 1, "repeats": 4}
    return check({"name": "tiny", "gates": gates, "quantize": values, "profile": profile, **sections})
