"""EDM preconditioning as Stable Video Diffusion uses it: sigma_data = 1, v-prediction.

**Source** Karras et al. 2022, Table 1, with SVD's constants · **Keeps** the published formulas
(``tests/svd/test_edm.py``) · **Axes** B F C H W; σ is (B,); all of this is float32.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mobilevd.shapes import AddedIds, Latents, Sigmas, Tokens


class Preconditioning(NamedTuple):
    """The four coefficients at noise levels σ, each (B,) float32."""

    c_skip: Sigmas
    c_out: Sigmas
    c_in: Sigmas
    c_noise: Sigmas


class Condition(NamedTuple):
    """What the network is told about a clip, in the order in which ``denoise`` takes it."""

    image_latents: Float[Tensor, "B C H W"]
    tokens: Tokens
    ids: AddedIds


def precondition(sigma: Sigmas) -> Preconditioning:
    """c_skip = 1/(σ²+1), c_out = −σ/√(σ²+1), c_in = 1/√(σ²+1), c_noise = ¼ ln σ, for σ > 0."""
    sigma = sigma.float()
    root = (sigma**2 + 1).sqrt()
    return Preconditioning(1 / root**2, -sigma / root, 1 / root, 0.25 * sigma.log())


def loss_weight(sigma: Sigmas) -> Sigmas:
    """λ(σ) = (1+σ²)/σ²: the weight on ‖D − x0‖² that equals unit weight on the v-target."""
    sigma = sigma.float()
    return (1 + sigma**2) / sigma**2


def denoise(
    unet: nn.Module,
    x_t: Latents,
    sigma: Sigmas,
    image_latents: Float[Tensor, "B C H W"],
    tokens: Tokens,
    ids: AddedIds,
) -> Latents:
    """D(x_t; σ, c) = c_skip x_t + c_out F(c_in x_t ‖ image; c_noise, c), the estimate x̂0.

    Args:
        unet: ``forward(sample B F 2C H W, timestep (B,), tokens B 1 D, ids B 3) -> B F C H W``; one with a ``dtype``
            of its own computes in it, all around it stays as it is.
        x_t: noisy scaled latents x0 + σ ε. image_latents: the first frame's raw latents, repeated over frames here.
    """
    c_skip, c_out, c_in, c_noise = precondition(sigma)
    sample = conditioned(over_frames(c_in) * x_t, image_latents)
    own = getattr(unet, "dtype", sample.dtype)
    output = unet(sample.to(own), c_noise, tokens.to(own), ids).to(sample.dtype)
    return over_frames(c_skip) * x_t + over_frames(c_out) * output


def conditioned(x: Latents, image_latents: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F C2 H W"]:
    """The network's input: ``x`` and the image latents, repeated over frames, concatenated on channels."""
    return torch.cat([x, image_latents.unsqueeze(1).expand(-1, x.shape[1], -1, -1, -1)], dim=2)


def over_frames(values: Sigmas) -> Float[Tensor, "B 1 1 1 1"]:
    """(B,) → (B, 1, 1, 1, 1), to multiply B F C H W."""
    return values[:, None, None, None, None]
