"""Spatial multiscaling: height and width are halved after down block 0 and doubled before the last up block.

**Source** MobileVD (arXiv 2412.07583) multiscaling ablation; how to halve is left open there.
**Changes** positions between the two points; the skip of down block 0's downsampler is stored halved.
**Keeps** every state-dict key (``tests/method/test_spatial_multiscale.py``). **Axes** N = B·F; H' = ⌈H/2⌉, W' = ⌈W/2⌉.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from mobilevd.errors import SurgeryError
from mobilevd.svd.unet import only_svd

OP = "spatial_multiscale"
DOWN = ("max", "average", "stride")


def apply(unet: nn.Module, down: str = "max") -> dict:
    """Halve the inner height and width of ``unet`` by ``down``; return the log entry.

    Errors: SurgeryError for an unknown ``down``, a network that is not SVD's, has one level, or is already multiscaled.
    """
    only_svd(unet, OP)
    if down not in DOWN:
        raise SurgeryError("Unknown way to halve the positions", got=down, allowed=", ".join(DOWN), where="down")
    if unet.space_down is not None or unet.space_up is not None:
        raise SurgeryError("The network's height and width are already rescaled", allowed="once per network", where=OP)
    if len(unet.down_blocks) < 2:
        raise SurgeryError("The network has one level", got=len(unet.down_blocks), allowed="two levels or more")
    unet.space_down, unet.space_up = HalveSpace(down), DoubleSpace()
    return {"op": OP, "down": down}


class HalveSpace(nn.Module):
    """(1) H W → ⌈H/2⌉ ⌈W/2⌉ by 2 x 2 squares: maximum, mean, or the first of each; at an odd edge by what is there."""

    def __init__(self, down: str):
        super().__init__()
        self.down = down

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H2 W2"]:
        if self.down == "stride":
            return x[..., ::2, ::2]
        if self.down == "max":
            return F.max_pool2d(x, 2, ceil_mode=True)
        return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)

    def extra_repr(self) -> str:
        return self.down


class DoubleSpace(nn.Module):
    """(2) Nearest neighbour, y_ij = x_⌊i/2⌋⌊j/2⌋, cut to the outer height and width."""

    def forward(self, x: Float[Tensor, "N C H2 W2"], outer: tuple[int, int]) -> Float[Tensor, "N C H W"]:
        """x [N C H' W'] → [N C *outer]."""
        doubled = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return doubled[..., : outer[0], : outer[1]]
