"""Both ends of the one-step network, each a function of tensors alone, so that it can be exported as a graph.

**Keeps** what the pipeline computes with the same parts (``tests/stages/test_ends.py``). **Axes** B is 1.
"""

from jaxtyping import Float
from torch import Tensor, nn

from mobilevd.shapes import Images, Latents, Tokens, Video
from mobilevd.svd import autoencoder
from mobilevd.svd.conditioning import image_tokens


class ImageLatents(nn.Module):
    """A picture of the clip's size, in [0, 1] → its raw latents."""

    def __init__(self, vae: nn.Module):
        super().__init__()
        self.vae = vae

    def forward(self, image: Images) -> Float[Tensor, "B C h w"]:
        """B 3 H W → B C h w, the mode of the posterior."""
        return autoencoder.encode(self.vae, image)


class ImageToken(nn.Module):
    """A picture of the clip's size, in [0, 1] → the token that says what is on it."""

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower = tower

    def forward(self, image: Images) -> Tokens:
        """B 3 H W → B 1 D, resizing and normalisation included."""
        return image_tokens(self.tower, image)


class Frames(nn.Module):
    """Clean scaled latents → pixels in [0, 1]."""

    def __init__(self, vae: nn.Module):
        super().__init__()
        self.vae = vae

    def forward(self, latents: Latents) -> Video:
        """B F C h w → B F 3 H W."""
        return autoencoder.decode(self.vae, latents)
