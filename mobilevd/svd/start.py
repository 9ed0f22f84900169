"""What the one evaluation starts from: noise alone at σ_max, or the still clip under less noise.

**Source** SF-V, Sec. 3 (σ_max); starting late, around a mean of the data: Analytic-Init (Zhao et al. 2024,
arXiv 2406.15735). **Keeps** SVD's own start where a network says nothing (``tests/svd/test_start.py``).
**Axes** B F C H W.
"""

from jaxtyping import Float
from torch import Tensor, nn

from mobilevd.shapes import Latents
from mobilevd.svd.scheduler import SIGMA_MAX


class Start(nn.Module):
    """x = σ ε + s z₁: unit noise ε at σ around the first frame's raw latents z₁ (repeated), brought to scale by s.

    s = 0: around nothing. Free of parameters, so that a network that has one keeps its keys.
    """

    def __init__(self, sigma: float, image_scale: float):
        super().__init__()
        self.sigma, self.image_scale = sigma, image_scale

    def forward(self, noise: Latents, image_latents: Float[Tensor, "B C H W"]) -> Latents:
        """Unit noise B F C H W and the first frame's raw latents → what the network is given to denoise."""
        x = self.sigma * noise
        return x + self.image_scale * image_latents.unsqueeze(1) if self.image_scale else x

    def extra_repr(self) -> str:
        return f"sigma={self.sigma!r}, image_scale={self.image_scale!r}"


NOISE = Start(SIGMA_MAX, 0.0)


def of(unet: nn.Module) -> Start:
    """Where ``unet`` starts as a one-step network: as its own ``start`` says, else at σ_max from noise alone."""
    return getattr(unet, "start", None) or NOISE
