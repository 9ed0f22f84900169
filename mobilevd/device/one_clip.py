"""The one-step network as it leaves for a phone: one clip, no batch axis, σ_max and the EDM constants in its weights.

**Source** Karras et al. 2022, Table 1 at σ_max. **Changes** c_in σ_max is in conv_in, c_out in conv_out; the blocks are
``rank4``'s. **Keeps** ``OneStep``'s function, to rounding (``tests/device/test_one_clip.py``). **Axes** F C H W.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mobilevd.device.rank4 import like, rewritten
from mobilevd.shapes import AddedIds, Tokens
from mobilevd.svd.edm import precondition
from mobilevd.svd.sampler import OneStep
from mobilevd.svd.scheduler import SIGMA_MAX
from mobilevd.svd.unet import VideoUNet


class OneClip(nn.Module):
    """Unit noise, raw first-frame latents, image token and ids of one clip → its clean scaled latents."""

    def __init__(self, unet: VideoUNet):
        super().__init__()
        c_skip, c_out, c_in, c_noise = precondition(torch.tensor([SIGMA_MAX]))
        self.unet = rewritten(unet)
        c = self.unet.config.out_channels
        weight = self.unet.conv_in.weight
        told = torch.cat([weight[:, :c] * (c_in * SIGMA_MAX).to(weight), weight[:, c:]], dim=1)
        self.unet.conv_in = like(self.unet.conv_in, told, self.unet.conv_in.bias)
        out, factor = self.unet.conv_out, c_out.to(weight)
        self.unet.conv_out = like(out, out.weight * factor, out.bias * factor)
        self.skip = float(c_skip * SIGMA_MAX)
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
        return self.skip * noise + self.unet.one_clip(x, self.c_noise, token, ids)


def unbatched(step: OneStep) -> Callable[..., Tensor]:
    """``step`` as a function of one clip's tensors: what the graph is compared with."""
    return lambda noise, *told: step(noise[None], *told)[0]
