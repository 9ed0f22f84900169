"""TAESD's decoder, a small stand-in for SVD's: scaled latents → pixels, each frame by itself.

**Source** madebyollin/taesd (MIT), its ``nn.Sequential`` names; SVD's encoder shares its latent space.
**Keeps** every tensor placed, none left over (``tests/svd/test_taesd.py``). **Axes** F C h w → F 3 H W in [0, 1].
"""

from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from mobilevd.svd import weights
from mobilevd.svd.upstream import DecoderTiny

DOWNSCALE, SCALING_FACTOR = 8, 0.18215  # of Stable Diffusion's latents


class TinyDecoder(nn.Module):
    """The decoder of ``taesd_decoder.safetensors``."""

    def __init__(self, path: Path):
        """Errors: IntegrityError for a file that is missing, damaged, or another network's, by tensor."""
        super().__init__()
        self.decoder = DecoderTiny(4, 3, (3, 3, 3, 1), (64, 64, 64, 64), 2, "relu", "nearest").eval()
        found = {_renamed(name): tensor.float() for name, tensor in weights.read(Path(path)).items()}
        weights.check_shapes(found, self.decoder.state_dict(), Path(path))
        self.decoder.load_state_dict(found)
        self.requires_grad_(False)

    def forward(self, latents: Float[Tensor, "F C h w"]) -> Float[Tensor, "F 3 H W"]:
        return (self.decoder(latents) * 0.5 + 0.5).clamp(0.0, 1.0)


def _renamed(name: str) -> str:
    """The upstream sequence begins with its clamp, which diffusers keeps outside of the layers."""
    index, _, rest = name.partition(".")
    return f"layers.{int(index) - 1}.{rest}" if index.isdigit() else name
