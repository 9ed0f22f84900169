"""The networks around the one step as graphs: latents → frames, image → token, image → latents.

**Source** SVD's autoencoder and image encoder. **Changes** scalings are folded, (3,1,1) convolutions are flat,
space-to-depth is a strided convolution, the antialiased resize two matrix products; rank four at most. **Keeps** what
the base computes (``tests/device/test_codecs.py``). **Axes** F C H W latents, F 3 H W pixels in [0, 1].
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mobilevd.device.inputs import GraphSpec, InputSpec
from mobilevd.device.rank4 import like, over_time, rewritten
from mobilevd.svd.autoencoder import AutoencoderKLTemporalDecoder, downscale, patch_size
from mobilevd.svd.conditioning import CLIP_MEAN, CLIP_STD, CLIPVisionModelWithProjection, resizing


class Decoder(nn.Module):
    """SVD's decoder: scaled latents of one clip → its frames."""

    def __init__(self, vae: AutoencoderKLTemporalDecoder):
        super().__init__()
        decoder = rewritten(vae.decoder)
        self.patch = patch_size(vae)
        self.conv_in = like(decoder.conv_in, decoder.conv_in.weight / vae.config.scaling_factor, decoder.conv_in.bias)
        self.mid_block, self.up_blocks = decoder.mid_block, decoder.up_blocks
        self.conv_norm_out, self.conv_out = decoder.conv_norm_out, decoder.conv_out
        self.time_conv_out = over_time(decoder.time_conv_out, 0.5, 0.5)  # [−1, 1] → [0, 1]

    def forward(self, latents: Float[Tensor, "F C h w"]) -> Float[Tensor, "F 3 H W"]:
        told = latents.new_zeros(1, latents.shape[0])
        x = self.mid_block(self.conv_in(latents), told)
        for block in self.up_blocks:
            x = block(x, told)
        x = self.conv_out(F.silu(self.conv_norm_out(x)))
        y = self.time_conv_out(x.transpose(0, 1).flatten(2)[None])[0]
        return F.pixel_shuffle(y.unflatten(2, x.shape[2:]).transpose(0, 1), self.patch).clamp(0.0, 1.0)


class ImageEncoder(nn.Module):
    """The image token: pixels at the clip's size, resized and normalised, through the vision tower."""

    def __init__(self, tower: CLIPVisionModelWithProjection, height: int, width: int):
        super().__init__()
        self.tower = tower
        rows, columns = resizing(height, width, tower.config.image_size)
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns.T.contiguous())
        self.register_buffer("mean", torch.tensor(CLIP_MEAN)[:, None, None])
        self.register_buffer("scale", 1.0 / torch.tensor(CLIP_STD)[:, None, None])

    def forward(self, image: Float[Tensor, "1 3 H W"]) -> Float[Tensor, "1 1 D"]:
        small = self.rows @ image @ self.columns
        return self.tower((small - self.mean) * self.scale).image_embeds[:, None]


class FrameEncoder(nn.Module):
    """The first frame's raw latents (the posterior's mode), from its pixels with their augmentation noise in them."""

    def __init__(self, vae: AutoencoderKLTemporalDecoder):
        super().__init__()
        self.encoder, self.channels = rewritten(vae.encoder), vae.config.latent_channels
        self.encoder.conv_in = _unshuffling(self.encoder.conv_in, patch_size(vae))
        self.quant_conv = vae.quant_conv

    def forward(self, image: Float[Tensor, "1 3 H W"]) -> Float[Tensor, "1 C h w"]:
        return self.quant_conv(self.encoder(image * 2.0 - 1.0))[:, : self.channels]


def decoder_spec(latents: tuple[int, int, int, int], down: int) -> GraphSpec:
    """The border of a decoder of latents F C h w whose positions are ``down`` pixels wide."""
    frames, _, height, width = latents
    pixels = InputSpec(name="frames", shape=(frames, 3, height * down, width * down))
    return GraphSpec(inputs=(InputSpec(name="latents", shape=latents),), outputs=(pixels,))


def encoder_spec(height: int, width: int, output: str, shape: tuple[int, ...]) -> GraphSpec:
    """The border of an encoder of one image."""
    image = InputSpec(name="image", shape=(1, 3, height, width))
    return GraphSpec(inputs=(image,), outputs=(InputSpec(name=output, shape=shape),))


def around(
    vae: AutoencoderKLTemporalDecoder, tower: CLIPVisionModelWithProjection, latents: tuple[int, int, int, int]
) -> dict[str, tuple[nn.Module, GraphSpec]]:
    """File name → network and border of all that the one step needs around it, for latents F C h w."""
    down = downscale(vae)
    height, width = latents[2] * down, latents[3] * down
    token = (1, 1, tower.config.projection_dim)
    return {
        "image_encoder": (ImageEncoder(tower, height, width), encoder_spec(height, width, "token", token)),
        "frame_encoder": (FrameEncoder(vae), encoder_spec(height, width, "image_latents", (1, *latents[1:]))),
        "decoder": (Decoder(vae), decoder_spec(latents, down)),
    }


def _unshuffling(conv: nn.Conv2d, patch: int) -> nn.Conv2d:
    """conv ∘ space-to-depth(p) as one convolution: k·p wide, stride p, padding p·pad."""
    return like(conv, F.pixel_shuffle(conv.weight, patch), conv.bias, stride=patch, padding=conv.padding[0] * patch)
