"""A tiny random SVD in diffusers' folder layout, and a bundle made of it: real classes, the smallest widths."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from mobilevd.artifacts import Artifact, seal, write_json
from mobilevd.method import cross_attention, surgery
from mobilevd.svd.unet import VideoUNet

UNET = {
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": (32, 32, 32, 32),
    "num_attention_heads": (1, 1, 1, 1),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24,
    "num_frames": 14,
}
VAE = {
    "latent_channels": 4,
    "block_out_channels": (32, 32, 32, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "layers_per_block": 1,
}
TOWER = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "projection_dim": 16,
    "image_size": 32,
    "patch_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
}
LATENT_SIDE = 8


def vae(seed: int = 0, **changes) -> AutoencoderKLTemporalDecoder:
    torch.manual_seed(seed)
    return AutoencoderKLTemporalDecoder(**(VAE | changes)).eval().requires_grad_(False)


def tower(seed: int = 0, **changes) -> CLIPVisionModelWithProjection:
    torch.manual_seed(seed)
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**(TOWER | changes))).eval().requires_grad_(False)


def unet(seed: int = 0, kind: type = VideoUNet, **changes) -> VideoUNet:
    torch.manual_seed(seed)
    return kind(**(UNET | changes)).eval().requires_grad_(False)


def write_base(folder: Path, variant: str | None = None, shard: str = "10GB", frames: int = 14, **of_vae) -> Path:
    """The layout of a downloaded SVD, or of SVD-XT with 25 ``frames``, in files of at most ``shard``.

    With ``variant="fp16"`` the weights are half precision, in files named so.
    """
    network = unet(kind=UNetSpatioTemporalConditionModel, num_frames=frames)
    for name, part in {"unet": network, "vae": vae(**of_vae), "image_encoder": tower()}.items():
        part = part.half() if variant else part
        part.save_pretrained(folder / name, variant=variant, max_shard_size=shard)
    return folder


def write_bundle(folder: Path, frames: int = 14, fps: float = 7.0, dtype: torch.dtype = torch.float32) -> Artifact:
    """A sealed bundle for clips of ``frames`` frames of 64x64 pixels; its network in ``dtype`` had one edit."""
    vae().save_pretrained(folder / "vae")
    tower().save_pretrained(folder / "image_encoder")
    network = unet().to(dtype)
    surgery.save(network, [cross_attention.apply(network)], folder)
    clip = {"frames": frames, "fps": fps, "width": 64, "height": 64}
    settings = {"clip": clip, "motion_bucket": 127, "augmentation_sigma": 0.02, "start_sigma": 700.0}
    write_json(folder / "pipeline.json", settings)
    return seal(folder)
