"""SVD image-to-video as facts: its three networks' configurations, and the networks without weights, to count them.

**Source** the configuration files of stabilityai/stable-video-diffusion-img2vid. **Keeps** the published parameter
counts (``tests/svd/test_reference.py``).
"""

import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from mobilevd.svd.unet import VideoUNet
from mobilevd.svd.upstream import AutoencoderKLTemporalDecoder

UNET = {
    "sample_size": 96,
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "num_attention_heads": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 768,
    "num_frames": 14,
}
AUTOENCODER = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 768,
    "scaling_factor": 0.18215,
    "force_upcast": True,
}
IMAGE_ENCODER = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "projection_dim": 1024,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
}


def unet() -> VideoUNet:
    """SVD's network on the meta device, unedited."""
    with torch.device("meta"):
        return VideoUNet(**UNET).to("meta").eval()


def autoencoder() -> AutoencoderKLTemporalDecoder:
    """SVD's autoencoder on the meta device."""
    with torch.device("meta"):
        return AutoencoderKLTemporalDecoder(**AUTOENCODER).to("meta").eval()


def image_encoder() -> CLIPVisionModelWithProjection:
    """SVD's image encoder (CLIP's ViT-H/14) on the meta device; its attention as plain matrix products."""
    with torch.device("meta"):
        config = CLIPVisionConfig(**IMAGE_ENCODER, attn_implementation="eager")
        return CLIPVisionModelWithProjection(config).to("meta").eval()
