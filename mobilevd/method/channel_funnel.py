"""Channel funnels: narrow each self-attention head from c to c' = r·c channels, y = W2 F2 f(F1 W1 x).

**Source** MobileVD (arXiv 2412.07583) Table 1 and its width ablation. **Changes** q–k and v–o of every attn1 chosen.
**Keeps** merged ≡ unmerged; r = 1 by CSI ≡ untouched (``tests/method/test_channel_funnel.py``).
**Axes** N rows, S positions, C channels; h heads of c channels. Deviates: place and CSI's formula are ours.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from mobilevd.errors import SurgeryError
from mobilevd.svd.unet import Attention

OP = "channel_funnel"
WHERE = ("spatial", "temporal", "all")
INIT = ("csi", "he")


def attach(
    unet: nn.Module, fun_factor: float, where: str, init: str, generator: torch.Generator | None = None
) -> list[nn.Parameter]:
    """Put unmerged funnels into the self-attentions chosen by ``where``, in place; return the funnels' parameters.

    ``init`` "csi" needs no generator, "he" draws from it. The attention's own weights stay beside the funnels.
    Errors: SurgeryError for an unknown choice, or where a funnel is already.
    """
    if init not in INIT:
        raise SurgeryError("Unknown start for the funnels", got=init, allowed=", ".join(INIT), where="funnel.init")
    parameters: list[nn.Parameter] = []
    for name, attention in _targets(unet, fun_factor, where).items():
        funneled = FunneledAttention(attention, fun_factor)
        funneled.start_csi() if init == "csi" else funneled.start_he(generator)
        unet.set_submodule(name, funneled)
        parameters += [funneled.F_q, funneled.F_k, funneled.F_v, funneled.F_o]
    return parameters


def merge(unet: nn.Module) -> dict:
    """Multiply every funnel into its neighbours, W1' = F1 W1 and W2' = W2 F2, in place; return the log entry.

    Errors: SurgeryError when there is no funnel to merge.
    """
    funneled = {name: module for name, module in unet.named_modules() if isinstance(module, FunneledAttention)}
    if not funneled:
        raise SurgeryError("There is no funnel to merge", allowed="attach funnels first", where=OP)
    temporal = {_is_temporal(name) for name in funneled}
    where = "all" if len(temporal) == 2 else "temporal" if temporal == {True} else "spatial"
    fun_factor = next(iter(funneled.values())).fun_factor
    for name, module in funneled.items():
        unet.set_submodule(name, module.merged())
    return {"op": OP, "fun_factor": fun_factor, "where": where}


def narrow(unet: nn.Module, fun_factor: float, where: str) -> None:
    """Give the chosen self-attentions the merged form without its weights: what replaying a log entry needs."""
    for name, attention in _targets(unet, fun_factor, where).items():
        unet.set_submodule(name, FunneledAttention(attention, fun_factor).merged())


class SelfAttention(nn.Module):
    """softmax(q kᵀ / √c) v per head; q, k, v may be narrower than the c = ``head_dim`` that sets the scale."""

    def __init__(self, to_q: nn.Linear, to_k: nn.Linear, to_v: nn.Linear, to_out: nn.Linear, heads: int, head_dim: int):
        super().__init__()
        self.to_q, self.to_k, self.to_v, self.to_out = to_q, to_k, to_v, nn.ModuleList([to_out])
        self.heads, self.scale = heads, 1.0 / math.sqrt(head_dim)

    def forward(
        self, hidden_states: Float[Tensor, "N S C"], encoder_hidden_states: None = None, attention_mask: None = None
    ) -> Float[Tensor, "N S C"]:
        q, k, v = (_split(to(hidden_states), self.heads) for to in (self.to_q, self.to_k, self.to_v))
        return self.to_out[0](_join(F.scaled_dot_product_attention(q, k, v, scale=self.scale)))


class FunneledAttention(nn.Module):
    """Self-attention with its funnels still apart: q' = F_q q, k' = F_k k, v' = F_v v, out = W_o F_o (softmax v')."""

    def __init__(self, attention: nn.Module, fun_factor: float):
        super().__init__()
        self.to_q, self.to_k, self.to_v = attention.to_q, attention.to_k, attention.to_v
        self.to_out = nn.ModuleList([attention.to_out[0]])
        self.heads, self.fun_factor = attention.heads, fun_factor
        c = self.to_q.out_features // self.heads
        rank = max(1, round(fun_factor * c))
        self.scale, like = 1.0 / math.sqrt(c), self.to_q.weight
        self.F_q, self.F_k, self.F_v = (nn.Parameter(like.new_empty(self.heads, rank, c)) for _ in range(3))
        self.F_o = nn.Parameter(like.new_empty(self.heads, c, rank))

    def forward(
        self, hidden_states: Float[Tensor, "N S C"], encoder_hidden_states: None = None, attention_mask: None = None
    ) -> Float[Tensor, "N S C"]:
        q, k, v = (_split(to(hidden_states), self.heads) for to in (self.to_q, self.to_k, self.to_v))
        q, k, v = q @ self.F_q.mT, k @ self.F_k.mT, v @ self.F_v.mT
        x = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.to_out[0](_join(x @ self.F_o.mT))

    @torch.no_grad()
    def start_csi(self) -> None:
        """q–k by W1 = W_k, W2 = W_qᵀ (so F_q = F2ᵀ), v–o by W1 = W_v, W2 = W_o, each head by itself."""
        W_q, W_k, W_v, W_o = self._per_head()
        F1, F2 = coupled_singular_initialisation(W_k, W_q.mT, self.F_k.shape[1])
        self.F_k.copy_(F1)
        self.F_q.copy_(F2.mT)
        F1, F2 = coupled_singular_initialisation(W_v, W_o, self.F_v.shape[1])
        self.F_v.copy_(F1)
        self.F_o.copy_(F2)

    @torch.no_grad()
    def start_he(self, generator: torch.Generator | None) -> None:
        """He et al. (2015): N(0, 2 / fan-in)."""
        for funnel in (self.F_q, self.F_k, self.F_v, self.F_o):
            funnel.copy_(torch.randn(funnel.shape, generator=generator) * math.sqrt(2.0 / funnel.shape[2]))

    @torch.no_grad()
    def merged(self) -> SelfAttention:
        """W_q' = F_q W_q, W_k' = F_k W_k, W_v' = F_v W_v, W_o' = W_o F_o; the output's bias stays."""
        W_q, W_k, W_v, W_o = self._per_head()
        pairs = ((self.F_q, W_q), (self.F_k, W_k), (self.F_v, W_v))
        q, k, v = (_linear((Fn.double() @ W.double()).flatten(0, 1), None, like=W) for Fn, W in pairs)
        W_out = (W_o.double() @ self.F_o.double()).transpose(0, 1).flatten(1)
        out = _linear(W_out, self.to_out[0].bias, like=W_o)
        return SelfAttention(q, k, v, out, self.heads, self.F_q.shape[2])

    def _per_head(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """W_q, W_k, W_v [h c C] and W_o [h C c]."""
        q, k, v = (to.weight.unflatten(0, (self.heads, -1)) for to in (self.to_q, self.to_k, self.to_v))
        return q, k, v, self.to_out[0].weight.unflatten(1, (self.heads, -1)).transpose(0, 1)


def coupled_singular_initialisation(
    W1: Float[Tensor, "h c C"], W2: Float[Tensor, "h D c"], rank: int
) -> tuple[Float[Tensor, "h r c"], Float[Tensor, "h c r"]]:
    """F1, F2 such that W2 F2 F1 W1 is the best rank-``rank`` approximation of W2 W1 (Eckart–Young), balanced; float64.

    W_i = U_i S_i V_iᵀ; S2 V2ᵀ U1 S1 = U Σ Vᵀ, cut; F1 = Σ^½ Vᵀ S1⁻¹ U1ᵀ; F2 = V2 S2⁻¹ U Σ^½.
    """
    U1, S1, _ = torch.linalg.svd(W1.double(), full_matrices=False)
    _, S2, V2t = torch.linalg.svd(W2.double(), full_matrices=False)
    U, Σ, Vt = torch.linalg.svd(S2[..., :, None] * (V2t @ U1) * S1[..., None, :], full_matrices=False)
    half = Σ[..., :rank].sqrt()
    F1 = (half[..., :, None] * Vt[..., :rank, :]) @ (_inverse(S1)[..., :, None] * U1.mT)
    F2 = (V2t.mT * _inverse(S2)[..., None, :]) @ (U[..., :rank] * half[..., None, :])
    return F1, F2


def _inverse(S: Tensor) -> Tensor:
    """1/S, and 0 where S is below 1e-10 of the largest: directions the matrix does not have."""
    relative = S / S[..., :1]
    return torch.where(relative > 1e-10, 1.0 / S, 0.0)


def _targets(unet: nn.Module, fun_factor: float, where: str) -> dict[str, nn.Module]:
    if where not in WHERE:
        raise SurgeryError("Unknown place for funnels", got=where, allowed=", ".join(WHERE), where="funnel.where")
    if not 0.0 < fun_factor <= 1.0:
        raise SurgeryError("Impossible fun-factor", got=fun_factor, allowed="0 < r ≤ 1", where="funnel.fun_factor")
    chosen = {name: m for name, m in unet.named_modules() if name.endswith(".attn1") and _chosen(name, where)}
    narrowed = [name for name, module in chosen.items() if not isinstance(module, Attention)]
    if narrowed or not chosen:
        got = f"{len(narrowed)} attentions with a funnel, {narrowed[0]} first" if narrowed else "no self-attention"
        raise SurgeryError("Funnels cannot go there", got=got, allowed="self-attentions without funnels", where=where)
    return chosen


def _chosen(name: str, where: str) -> bool:
    return where == "all" or _is_temporal(name) == (where == "temporal")


def _is_temporal(name: str) -> bool:
    return ".temporal_transformer_blocks." in name


def _linear(weight: Tensor, bias: nn.Parameter | None, like: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.to(like.dtype).contiguous())
    linear.bias = bias
    return linear


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(2, (heads, -1)).transpose(1, 2)  # [N h S c]


def _join(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)  # [N S h·c]
