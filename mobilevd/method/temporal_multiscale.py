"""Temporal multiscaling: the frame axis is halved after down block 0 and doubled again before the last up block.

**Source** MobileVD (arXiv 2412.07583) Table 1, "temporal multiscaling"; how to halve is left open there.
**Changes** frames between the two points; the skip of down block 0's downsampler is stored halved.
**Keeps** every state-dict key (``tests/method/test_temporal_multiscale.py``). **Axes** B F C H W; F' = ⌈F/2⌉.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mobilevd.errors import SurgeryError
from mobilevd.svd.unet import only_svd

OP = "temporal_multiscale"
DOWN = ("max", "average", "stride")


def apply(unet: nn.Module, down: str = "max") -> dict:
    """Halve the inner frame axis of ``unet`` by ``down``; return the log entry.

    Errors: SurgeryError for an unknown ``down``, a network that is not SVD's, has one level, or is already multiscaled.
    """
    only_svd(unet, OP)
    if down not in DOWN:
        raise SurgeryError("Unknown way to halve the frames", got=down, allowed=", ".join(DOWN), where="down")
    if unet.frame_down is not None or unet.frame_up is not None:
        raise SurgeryError("The network's frame axis is already rescaled", allowed="once per network", where=OP)
    if len(unet.down_blocks) < 2:
        raise SurgeryError("The network has one level", got=len(unet.down_blocks), allowed="two levels or more")
    unet.frame_down, unet.frame_up = HalveFrames(down), DoubleFrames()
    return {"op": OP, "down": down}


class HalveFrames(nn.Module):
    """(1) F → ⌈F/2⌉ frames by pairs: their maximum, their mean, or the first; an odd last frame stands for itself."""

    def __init__(self, down: str):
        super().__init__()
        self.down = down

    def forward(self, x: Float[Tensor, "N C H W"], frames: int) -> tuple[Float[Tensor, "M C H W"], int]:
        """x [B·F C H W] → [B·F' C H W], and F'."""
        x = x.unflatten(0, (-1, frames))
        if frames % 2:
            x = torch.cat([x, x[:, -1:]], dim=1)
        first, second = x[:, 0::2], x[:, 1::2]
        halved = {
            "max": lambda: torch.maximum(first, second),
            "average": lambda: (first + second) / 2,
            "stride": lambda: first,
        }[self.down]()
        return halved.flatten(0, 1), halved.shape[1]

    def extra_repr(self) -> str:
        return self.down


class DoubleFrames(nn.Module):
    """(2) Nearest neighbour in time, y_f = x_⌊f/2⌋, cut to the outer frame count."""

    def forward(self, x: Float[Tensor, "N C H W"], inner: int, outer: int) -> Float[Tensor, "M C H W"]:
        """x [B·inner C H W] → [B·outer C H W]."""
        x = x.unflatten(0, (-1, inner))
        return x.repeat_interleave(2, dim=1)[:, :outer].flatten(0, 1)
