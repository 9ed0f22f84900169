"""**Source** SF-V (arXiv 2406.04324) Sec. 3: a frozen encoder with one spatial and one temporal head per down block.

**Keeps** the encoder never moves and is never saved with the heads (``tests/method/test_discriminator.py``)
· **Axes** features B F C H W; D is negative for real.
Deviates: SF-V leaves kernels, widths and norms open. Ours: 3-wide convolutions, one width, GroupNorm, SiLU; what the
encoder gives is normalised first, so that no block's heads learn slower for the size of its features.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mobilevd.errors import RecipeError
from mobilevd.shapes import Latents, Sigmas, Tokens
from mobilevd.svd.edm import Condition, conditioned, over_frames, precondition

Maps = Float[Tensor, "B F C H W"]
Features = Float[Tensor, "B F _ _ _"]
EMBEDDING = 32
GROUPS, NORM_GROUPS = 8, 32


class Discriminator(nn.Module):
    """Heads on a frozen encoder. Only the heads are parameters of this module; the encoder is shared, not owned."""

    def __init__(
        self,
        encoder: nn.Module,
        kinds: tuple[str, ...] = ("spatial", "temporal"),
        width: int = 64,
        generator: torch.Generator | None = None,
        undivided: bool = False,
    ):
        """``encoder``: a VideoUNet; its weights stay where they are, and stop asking for gradients.

        ``undivided``: look at each block before its downsampler, not after it.
        """
        super().__init__()
        self._frozen, self._undivided = (encoder.requires_grad_(False).eval(),), undivided
        condition = encoder.config.cross_attention_dim + 2 * EMBEDDING
        makers = {"spatial": SpatialHead, "temporal": TemporalHead}
        self.heads = nn.ModuleList(
            nn.ModuleDict({kind: makers[kind](channels, _width(width), condition) for kind in kinds})
            for channels in encoder.config.block_out_channels
        )
        _initialise(self, generator)

    def features(self, x: Latents, noise: Latents, sigma: Sigmas, condition: Condition) -> list[Features]:
        """What the encoder sees in x + σ' ε at each down block, normalised; gradients reach ``x`` and stop there."""
        c_noise = precondition(sigma).c_noise
        noisy = over_frames(precondition(sigma).c_in) * (x + over_frames(sigma) * noise)
        sample = conditioned(noisy, condition.image_latents)
        rows = self._frozen[0].encode(sample, c_noise, condition.tokens, condition.ids, self._undivided)
        return [_normal(r.unflatten(0, (x.shape[0], -1)).float()) for r in rows]

    def forward(self, features: list[Features], sigma: Sigmas, tokens: Tokens) -> list[Float[Tensor, "B _"]]:
        """One row of logits per clip from each head, at every position of its feature map."""
        return [row for k, x in enumerate(features) for row in self.judge(k, x, sigma, tokens)]

    def judge(self, k: int, x: Features, sigma: Sigmas, tokens: Tokens) -> list[Float[Tensor, "B _"]]:
        """The rows of the heads of block ``k`` on its features.

        In float32, whatever the encoder's precision: half of it is too coarse for a hinge, and for R1's derivatives.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            told = _told(tokens.float(), precondition(sigma).c_noise, x.shape[1])
            return [head(x.float(), told).flatten(1) for head in self.heads[k].values()]


class SpatialHead(nn.Module):
    """(b t) c h w: Conv2d → ResBlock → Conv2d, projected on an affine map of the condition."""

    def __init__(self, channels: int, width: int, condition: int):
        super().__init__()
        self.trunk = _trunk(nn.Conv2d, channels, width)
        self.affine = nn.Linear(condition, width)

    def forward(self, x: Maps, told: Float[Tensor, "B F D"]) -> Float[Tensor, "B F H W"]:
        y = self.trunk(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return _project(y, self.affine(told))


class TemporalHead(nn.Module):
    """(b h w) c t: Conv1d → ResBlock → Conv1d, projected on an affine map of the condition."""

    def __init__(self, channels: int, width: int, condition: int):
        super().__init__()
        self.trunk = _trunk(nn.Conv1d, channels, width)
        self.affine = nn.Linear(condition, width)

    def forward(self, x: Maps, told: Float[Tensor, "B F D"]) -> Float[Tensor, "B F H W"]:
        B, _, _, H, W = x.shape
        y = self.trunk(x.permute(0, 3, 4, 2, 1).flatten(0, 2))
        y = y.unflatten(0, (B, H, W)).permute(0, 4, 3, 1, 2)
        return _project(y, self.affine(told))


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))) at one width."""

    def __init__(self, conv: type[nn.Module], width: int):
        super().__init__()
        halves = [[nn.GroupNorm(GROUPS, width), nn.SiLU(), conv(width, width, 3, padding=1)] for _ in range(2)]
        self.layers = nn.Sequential(*halves[0], *halves[1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _trunk(conv: type[nn.Module], channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(conv(channels, width, 3, padding=1), ResBlock(conv, width), nn.SiLU(), conv(width, width, 1))


def _project(y: Maps, affine: Float[Tensor, "B F C"]) -> Float[Tensor, "B F H W"]:
    return (y * affine[..., None, None]).sum(2) / math.sqrt(y.shape[2])


def _told(tokens: Tokens, c_noise: Sigmas, frames: int) -> Float[Tensor, "B F K"]:
    """Image token, noise level and frame index, side by side, for every frame."""
    index = _waves(torch.arange(frames, device=tokens.device, dtype=torch.float32))
    level = _waves(c_noise)[:, None].expand(-1, frames, -1)
    return torch.cat([tokens.expand(-1, frames, -1), level, index.expand(len(tokens), -1, -1)], dim=2)


def _waves(values: Float[Tensor, "N"]) -> Float[Tensor, "N D"]:
    angles = values[:, None] * torch.logspace(-1, 1, EMBEDDING // 2, device=values.device)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _normal(x: Maps) -> Maps:
    """Mean 0 and deviation 1 in each group of channels, over a whole clip."""
    return functional.group_norm(x.transpose(1, 2), math.gcd(x.shape[2], NORM_GROUPS)).transpose(1, 2)


def _width(width: int) -> int:
    if width % GROUPS:
        raise RecipeError(
            "The discriminator's heads cannot have this width",
            got=width,
            allowed=f"a multiple of {GROUPS}",
            where="adversarial.head_channels of the stage",
        )
    return width


def _initialise(module: nn.Module, generator: torch.Generator | None) -> None:
    """He-uniform weights, no biases; affine maps start at one so that the first logits do not hang on the condition."""
    for name, p in module.named_parameters():
        if p.dim() > 1:
            nn.init.kaiming_uniform_(p, a=math.sqrt(5), generator=generator)
        elif name.endswith("bias"):
            nn.init.constant_(p, 1.0 if "affine" in name else 0.0)
