"""Funnels on convolutions: conv1 → conv2 of a ResBlock through c' = r·c channels, y = W2 F2 f(F1 (W1 x + W_t τ + b)).

**Source** MobileVD (arXiv 2412.07583), "funnels on convolutions" of its width ablation: 7.2 TFLOPs, FVD 139.
**Changes** conv1, time_emb_proj, norm2 and conv2 of every ResBlock chosen. **Keeps** merged ≡ unmerged; r = 1 by CSI ≡
untouched (``tests/method/test_conv_funnel.py``). **Axes** N C H W, temporal N C F H W; k taps of a kernel, T of τ.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mobilevd.errors import SurgeryError
from mobilevd.svd.affine_pairs import UNLIKE_RES_BLOCK, refuse, res_blocks

OP = "conv_funnel"
INIT = ("csi", "he")
Convolution = nn.Conv2d | nn.Conv3d


def attach(
    unet: nn.Module, fun_factor: float, where: str, init: str, generator: torch.Generator | None = None
) -> list[nn.Parameter]:
    """Put unmerged funnels into the ResBlocks chosen by ``where``, in place; return the funnels' parameters.

    ``init`` "csi" needs no generator, "he" draws from it. Errors: SurgeryError for an unknown choice, a block that
    cannot be rewritten, by name, or funnels of another fun-factor that wait to be merged.
    """
    if init not in INIT:
        raise SurgeryError("Unknown start for the funnels", got=init, allowed=", ".join(INIT), where="funnel.init")
    if waiting := {module.fun_factor for module in _funneled(unet).values()} - {fun_factor}:
        what, allowed = "Funnels of another fun-factor wait to be merged", "merge them first"
        raise SurgeryError(what, got=sorted(waiting), allowed=allowed, where="funnel.fun_factor")
    parameters: list[nn.Parameter] = []
    for name, block in _targets(unet, fun_factor, where).items():
        funneled = FunneledResBlock(block, fun_factor)
        funneled.start_csi(block.norm2) if init == "csi" else funneled.start_he(block.norm2, generator)
        unet.set_submodule(name, funneled)
        parameters += [funneled.F1, funneled.F2]
    return parameters


def merge(unet: nn.Module) -> dict:
    """(5) W1' = F1 W1, W_t' = F1 W_t, b' = F1 b, W2' = W2 F2 in every funneled ResBlock, in place; the log entry.

    Errors: SurgeryError when there is no funnel to merge.
    """
    funneled = _funneled(unet)
    if not funneled:
        raise SurgeryError("There is no funnel to merge", allowed="attach funnels first", where=OP)
    kinds = {isinstance(module.conv1, nn.Conv3d) for module in funneled.values()}
    where = "all" if len(kinds) == 2 else "temporal" if kinds == {True} else "spatial"
    fun_factor = next(iter(funneled.values())).fun_factor
    for name, module in funneled.items():
        unet.set_submodule(name, module.merged())
    return {"op": OP, "fun_factor": fun_factor, "where": where}


def narrow(unet: nn.Module, fun_factor: float, where: str) -> None:
    """Give the chosen ResBlocks the merged form without its weights: what replaying a log entry needs."""
    for name, block in _targets(unet, fun_factor, where).items():
        unet.set_submodule(name, FunneledResBlock(block, fun_factor).narrowed())


class NarrowResBlock(nn.Module):
    """(1) y = (shortcut(x) + W2 f(W1 silu(GN x) + W_t τ + b) + b2) / scale, f = SiLU ∘ GN': diffusers' ResBlocks.

    τ is the activated time embedding; conv1, time_emb_proj and norm2 may have fewer channels than x and y.
    """

    def __init__(self, block: nn.Module):
        super().__init__()
        self.norm1, self.conv1, self.time_emb_proj = block.norm1, block.conv1, block.time_emb_proj
        self.norm2, self.dropout, self.conv2 = block.norm2, block.dropout, block.conv2
        self.conv_shortcut, self.nonlinearity = block.conv_shortcut, block.nonlinearity
        self.upsample, self.downsample = getattr(block, "upsample", None), getattr(block, "downsample", None)
        self.skip_time_act = getattr(block, "skip_time_act", False)
        self.output_scale_factor = getattr(block, "output_scale_factor", 1.0)

    def forward(
        self, input_tensor: Float[Tensor, "N C *S"], temb: Float[Tensor, "N *F T"] | None = None
    ) -> Float[Tensor, "N D *R"]:
        """x [N C H W] with τ [N T], or a video's x [N C F H W] with τ [N F T], → y; resampled if the block does so."""
        x, a = input_tensor, self.nonlinearity(self.norm1(input_tensor))
        if resample := self.upsample or self.downsample:
            x, a = resample(x), resample(a)
        h = self.dropout(self.nonlinearity(self.norm2(self.first(a, temb))))
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return (shortcut + self.second(h)) / self.output_scale_factor

    def first(self, a: Tensor, temb: Tensor | None) -> Tensor:
        """W1 a + W_t τ + b: time embeddings come one per row (N T) or one per row and frame (N F T)."""
        h = self.conv1(a)
        if self.time_emb_proj is None:
            return h
        τ = temb if self.skip_time_act else self.nonlinearity(temb)
        return h + self.time_emb_proj(τ).movedim(-1, 1)[..., None, None]

    def second(self, h: Tensor) -> Tensor:
        """W2 h + b2."""
        return self.conv2(h)


class FunneledResBlock(NarrowResBlock):
    """(2) The same with its funnels still apart: F1 after conv1 and time_emb_proj, F2 before conv2.

    f = SiLU ∘ GN' is not merged but narrowed at once: GN' has c' channels in G' = gcd(G, c') groups, each of which
    stands for G/G' groups of the wide norm and starts with γ, β of the c'/G' channels kept there (``kept_channels``).
    """

    def __init__(self, block: nn.Module, fun_factor: float):
        super().__init__(block)
        c, self.fun_factor = block.conv1.out_channels, fun_factor
        rank, like = max(1, round(fun_factor * c)), block.conv1.weight
        self.F1, self.F2 = nn.Parameter(like.new_empty(rank, c)), nn.Parameter(like.new_empty(c, rank))
        self.norm2 = _group_norm(block.norm2, rank)

    def first(self, a: Tensor, temb: Tensor | None) -> Tensor:
        return torch.einsum("rc,nc...->nr...", self.F1, super().first(a, temb))

    def second(self, h: Tensor) -> Tensor:
        return self.conv2(torch.einsum("cr,nr...->nc...", self.F2, h))

    @torch.no_grad()
    def start_csi(self, wide: nn.GroupNorm) -> None:
        """CSI of [W1 | W_t | b] and W2 over all taps, in the gauge nearest to keeping whole channels."""
        projection = self.time_emb_proj
        columns = [self.conv1.weight.flatten(1), self.conv1.bias[:, None]]
        if projection is not None:
            columns = [columns[0], projection.weight, columns[1] + projection.bias[:, None]]
        W1, W2 = torch.cat(columns, dim=1), self.conv2.weight.transpose(0, 1).flatten(1).T
        F1, F2 = coupled_singular_initialisation(W1, W2, len(self.F1))
        kept = kept_channels(F1.square().sum(0), self.norm2.num_groups, len(F1))
        F1, F2 = towards_channels(F1, F2, kept)
        self.F1.copy_(F1)
        self.F2.copy_(F2)
        self._inherit(wide, kept)

    @torch.no_grad()
    def start_he(self, wide: nn.GroupNorm, generator: torch.Generator | None) -> None:
        """He et al. (2015): N(0, 2 / fan-in); each group of the norm keeps its first channels' γ, β."""
        for funnel in (self.F1, self.F2):
            funnel.copy_(torch.randn(funnel.shape, generator=generator) * math.sqrt(2.0 / funnel.shape[1]))
        self._inherit(wide, kept_channels(wide.weight.new_ones(wide.num_channels), self.norm2.num_groups, len(self.F1)))

    @torch.no_grad()
    def merged(self) -> NarrowResBlock:
        """The narrow block of the same function; b2 and the norm's weights stay."""
        narrow, F1, F2 = self.narrowed(), self.F1.double(), self.F2.double()
        narrow.conv1.weight.copy_(torch.einsum("rc,cd...->rd...", F1, self.conv1.weight.double()))
        narrow.conv1.bias.copy_(F1 @ self.conv1.bias.double())
        if self.time_emb_proj is not None:
            narrow.time_emb_proj.weight.copy_(F1 @ self.time_emb_proj.weight.double())
            narrow.time_emb_proj.bias.copy_(F1 @ self.time_emb_proj.bias.double())
        narrow.conv2.weight.copy_(torch.einsum("dc...,cr->dr...", self.conv2.weight.double(), F2))
        return narrow

    def narrowed(self) -> NarrowResBlock:
        """The narrow block; conv1's, time_emb_proj's and conv2's weights are for someone to fill in."""
        narrow, rank = NarrowResBlock(self), len(self.F1)
        narrow.conv1 = _convolution(self.conv1, self.conv1.in_channels, rank)
        narrow.conv2 = _convolution(self.conv2, rank, self.conv2.out_channels)
        narrow.conv2.bias = self.conv2.bias
        if self.time_emb_proj is not None:
            like = {"device": self.F1.device, "dtype": self.F1.dtype}
            narrow.time_emb_proj = nn.utils.skip_init(nn.Linear, self.time_emb_proj.in_features, rank, **like)
        return narrow

    def _inherit(self, wide: nn.GroupNorm, kept: Tensor) -> None:
        self.norm2.weight.copy_(wide.weight[kept])
        self.norm2.bias.copy_(wide.bias[kept])


def coupled_singular_initialisation(
    W1: Float[Tensor, "c n"], W2: Float[Tensor, "m c"], rank: int
) -> tuple[Float[Tensor, "r c"], Float[Tensor, "c r"]]:
    """F1, F2 such that W2 F2 F1 W1 is the best rank-``rank`` approximation of W2 W1 (Eckart–Young); float64.

    (3) W1 = L1 Q1, W2 = Q2 R2, R2 L1 = U Σ Vᵀ, cut at the rank: F1 = Uᵀ R2, F2 = L1 V Σ⁻¹. With Uᵀ R2 = T Q that is
    also F1 = Q, F2 = L1 V Σ⁻¹ T, whose F1 has orthonormal rows.
    """
    L1, R2 = torch.linalg.qr(W1.double().T, mode="r").R.T, torch.linalg.qr(W2.double(), mode="r").R
    U, Σ, Vt = torch.linalg.svd(R2 @ L1, full_matrices=False)
    smallest = 1e-12 * Σ[0]
    Σ_inverse = torch.where(smallest < Σ, 1.0 / Σ, 0.0)[:rank]
    Q, T = torch.linalg.qr((U[:, :rank].T @ R2).T)
    return Q.T, (L1 @ Vt[:rank].T * Σ_inverse) @ T.T


def kept_channels(weight: Float[Tensor, "c"], groups: int, rank: int) -> Int[Tensor, "r"]:
    """The rank/groups heaviest channels of each of ``groups`` equal runs of channels, in their order."""
    run, per_run = len(weight) // groups, rank // groups
    inside = weight.unflatten(0, (groups, run)).argsort(dim=1, descending=True, stable=True)[:, :per_run]
    return (inside + run * torch.arange(groups, device=weight.device)[:, None]).sort(dim=1).values.flatten()


def towards_channels(
    F1: Float[Tensor, "r c"], F2: Float[Tensor, "c r"], kept: Int[Tensor, "r"]
) -> tuple[Float[Tensor, "r c"], Float[Tensor, "c r"]]:
    """(4) R F1, F2 Rᵀ with the rotation R that brings F1 nearest to the rows e_kept: F1[:, kept] = X S Yᵀ, R = Y Xᵀ.

    Deviates: the coupled product leaves R free, but f does not commute with it. So the reduced features are made to be
    the kept channels as far as the subspace allows; at r = 1 that is F1 = F2 = 1.
    """
    X, _, Yt = torch.linalg.svd(F1[:, kept])
    R = Yt.T @ X.T
    return R @ F1, F2 @ R.T


def _funneled(unet: nn.Module) -> dict[str, FunneledResBlock]:
    return {name: module for name, module in unet.named_modules() if isinstance(module, FunneledResBlock)}


def _targets(unet: nn.Module, fun_factor: float, where: str) -> dict[str, nn.Module]:
    if not 0.0 < fun_factor <= 1.0:
        raise SurgeryError("Impossible fun-factor", got=fun_factor, allowed="0 < r ≤ 1", where="funnel.fun_factor")
    blocks = res_blocks(unet, where)
    refuse(blocks, UNLIKE_RES_BLOCK)
    return blocks


def _group_norm(wide: nn.GroupNorm, channels: int) -> nn.GroupNorm:
    like = {"device": wide.weight.device, "dtype": wide.weight.dtype}
    return nn.GroupNorm(math.gcd(wide.num_groups, channels), channels, wide.eps, **like)


def _convolution(wide: Convolution, channels_in: int, channels_out: int) -> Convolution:
    like = {"device": wide.weight.device, "dtype": wide.weight.dtype}
    shape = (wide.kernel_size, wide.stride, wide.padding, wide.dilation)
    return nn.utils.skip_init(type(wide), channels_in, channels_out, *shape, **like)
