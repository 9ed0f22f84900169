"""The one-step network as it leaves for a phone: one clip, no batch axis; its start and EDM's constants in its weights.

**Source** Karras et al. 2022, Table 1 at the start's σ. **Changes** c_in (σ ε + s z₁) is in conv_in, with z₁ from the
image latents that it sees anyway; c_out is in conv_out; the blocks are ``rank4``'s.
**Keeps** ``OneStep``'s function, to rounding (``tests/device/test_one_clip.py``). **Axes** F C H W.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mobilevd.device.rank4 import like, rewritten
from mobilevd.shapes import AddedIds, Tokens
from mobilevd.svd import start
from mobilevd.svd.edm import precondition
from mobilevd.svd.sampler import OneStep
from mobilevd.svd.unet import VideoUNet


class OneClip(nn.Module):
    """Unit noise, raw first-frame latents, image token and ids of one clip → its clean scaled latents."""

    def __init__(self, unet: VideoUNet):
        super().__init__()
        begin = start.of(unet)
        c_skip, c_out, c_in, c_noise = precondition(torch.tensor([begin.sigma]))
        self.unet = rewritten(unet)
        c = self.unet.config.out_channels
        weight = self.unet.conv_in.weight
        share = {name: (c_in * getattr(begin, name)).to(weight) for name in ("sigma", "image_scale")}
        of_image = weight[:, c:] + weight[:, :c] * share["image_scale"]
        told = torch.cat([weight[:, :c] * share["sigma"], of_image], dim=1)
        self.unet.conv_in = like(self.unet.conv_in, told, self.unet.conv_in.bias)
        out, factor = self.unet.conv_out, c_out.to(weight)
        self.unet.conv_out = like(out, out.weight * factor, out.bias * factor)
        self.skip, self.skip_image = float(c_skip * begin.sigma), float(c_skip * begin.image_scale)
        self.register_buffer("c_noise", c_noise)

    def forward(
        self,
        noise: Float[Tensor, "F C H W"],
        image_latents: Float[Tensor, "1 C H W"],
        token: Tokens,
        ids: AddedIds,
    ) -> Float[Tensor, "F C H W"]:
        """Unit noise, raw first-frame latents, image token and ids of one clip → its clean scaled latents."""
        x = torch.cat([noise, image_latents.expand(noise.shape[0], -1, -1, -1)], dim=1)
        made = self.skip * noise + self.unet.one_clip(x, self.c_noise, token, ids)
        return made + self.skip_image * image_latents if self.skip_image else made


def unbatched(step: OneStep) -> Callable[..., Tensor]:
    """``step`` as a function of one clip's tensors: what the graph is compared with."""
    return lambda noise, *told: step(noise[None], *told)[0]
