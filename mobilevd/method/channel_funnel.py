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
from mobilevd.svd.affine_pairs import UNLIKE_ATTENTION, is_temporal, refuse, self_attentions

OP = "channel_funnel"
INIT = ("csi", "he")


Pair = tuple[Tensor, Tensor]  # W1 [h c n] and W2 [h m c], what the coupled decomposition of a product starts from


def attach(
    unet: nn.Module,
    fun_factor: float,
    where: str,
    init: str,
    generator: torch.Generator | None = None,
    pairs: dict[str, tuple[Pair, Pair]] | None = None,
    ranks: dict[str, tuple[int, int]] | None = None,
) -> list[nn.Parameter]:
    """Put unmerged funnels into the self-attentions chosen by ``where``, in place; return the funnels' parameters.

    ``init`` "csi" needs no generator, "he" draws from it. By name of an attention, ``pairs`` replaces the weights in
    CSI's products (q–k, v–o; data-aware), and ``ranks`` gives (q–k, v–o) channels per head instead of round(r·c).
    Errors: SurgeryError for an unknown choice, or an attention that cannot be rewritten, by name.
    """
    if init not in INIT:
        raise SurgeryError("Unknown start for the funnels", got=init, allowed=", ".join(INIT), where="funnel.init")
    parameters: list[nn.Parameter] = []
    for name, attention in _targets(unet, fun_factor, where).items():
        funneled = FunneledAttention(attention, fun_factor, ranks[name] if ranks else None)
        funneled.start_csi(pairs[name] if pairs else None) if init == "csi" else funneled.start_he(generator)
        unet.set_submodule(name, funneled)
        parameters += [funneled.F_q, funneled.F_k, funneled.F_v, funneled.F_o]
    return parameters


def merge(unet: nn.Module) -> dict:
    """Multiply every funnel into its neighbours, W1' = F1 W1 and W2' = W2 F2, in place; return the log entry.

    The entry tells fun-factor and place, or, where these differ, the ranks (q–k, v–o) of every attention.
    Errors: SurgeryError when there is no funnel to merge.
    """
    funneled = {name: module for name, module in unet.named_modules() if isinstance(module, FunneledAttention)}
    if not funneled:
        raise SurgeryError("There is no funnel to merge", allowed="attach funnels first", where=OP)
    for name, module in funneled.items():
        unet.set_submodule(name, module.merged())
    if len(factors := {module.fun_factor for module in funneled.values()}) > 1 or None in factors:
        return {"op": OP, "ranks": {name: list(module.ranks) for name, module in funneled.items()}}
    temporal = {is_temporal(name) for name in funneled}
    where = "all" if len(temporal) == 2 else "temporal" if temporal == {True} else "spatial"
    return {"op": OP, "fun_factor": factors.pop(), "where": where}


def narrow(unet: nn.Module, fun_factor: float, where: str) -> None:
    """Give the chosen self-attentions the merged form without its weights: what replaying a log entry needs."""
    for name, attention in _targets(unet, fun_factor, where).items():
        unet.set_submodule(name, FunneledAttention(attention, fun_factor).merged())


def narrow_to(unet: nn.Module, ranks: dict[str, list[int]]) -> None:
    """The same for an entry that tells ranks. Errors: SurgeryError for a name that is no self-attention, or a rank."""
    attentions = self_attentions(unet, "all")
    if unknown := sorted(ranks.keys() - attentions.keys()):
        raise SurgeryError("These are no self-attentions of this network", got=", ".join(unknown), where="ranks")
    refuse({name: attentions[name] for name in ranks}, UNLIKE_ATTENTION)
    for name, pair in ranks.items():
        unet.set_submodule(name, FunneledAttention(attentions[name], None, tuple(pair)).merged())


class SelfAttention(nn.Module):
    """(1) softmax(scale q kᵀ) v per head; q, k and v may be narrower than the c of scale = 1/√c."""

    def __init__(self, to_q: nn.Linear, to_k: nn.Linear, to_v: nn.Linear, to_out: nn.Linear, heads: int, scale: float):
        super().__init__()
        self.to_q, self.to_k, self.to_v, self.to_out = to_q, to_k, to_v, nn.ModuleList([to_out])
        self.heads, self.scale = heads, scale

    def forward(
        self, hidden_states: Float[Tensor, "N S C"], encoder_hidden_states: object = None, attention_mask: object = None
    ) -> Float[Tensor, "N S C"]:
        _alone(encoder_hidden_states, attention_mask)
        q, k, v = (_split(to(hidden_states), self.heads) for to in (self.to_q, self.to_k, self.to_v))
        return self.to_out[0](_join(F.scaled_dot_product_attention(q, k, v, scale=self.scale)))


class FunneledAttention(nn.Module):
    """(2) Self-attention, its funnels still apart: q' = F_q q, k' = F_k k, v' = F_v v, out = W_o F_o (softmax v')."""

    def __init__(self, attention: nn.Module, fun_factor: float | None, ranks: tuple[int, int] | None = None):
        """``ranks``: c' of q–k and of v–o; round(r·c) for both without them, and then ``fun_factor`` is None."""
        super().__init__()
        self.to_q, self.to_k, self.to_v = attention.to_q, attention.to_k, attention.to_v
        self.to_out = nn.ModuleList([attention.to_out[0]])
        self.heads, self.scale = attention.heads, attention.scale
        c, h, like = self.to_q.out_features // self.heads, self.heads, self.to_q.weight
        self.fun_factor = None if ranks else fun_factor
        self.ranks = ranks or (max(1, round(fun_factor * c)),) * 2
        if not all(1 <= rank <= c for rank in self.ranks):
            raise SurgeryError("Impossible ranks for a head", got=list(self.ranks), allowed=f"1 to {c}", where="ranks")
        self.F_q, self.F_k = (nn.Parameter(like.new_empty(h, self.ranks[0], c)) for _ in range(2))
        self.F_v, self.F_o = (
            nn.Parameter(like.new_empty(h, *shape)) for shape in ((self.ranks[1], c), (c, self.ranks[1]))
        )

    def forward(
        self, hidden_states: Float[Tensor, "N S C"], encoder_hidden_states: object = None, attention_mask: object = None
    ) -> Float[Tensor, "N S C"]:
        _alone(encoder_hidden_states, attention_mask)
        q, k, v = (_split(to(hidden_states), self.heads) for to in (self.to_q, self.to_k, self.to_v))
        q, k, v = q @ self.F_q.mT, k @ self.F_k.mT, v @ self.F_v.mT
        x = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.to_out[0](_join(x @ self.F_o.mT))

    @torch.no_grad()
    def start_csi(self, pairs: tuple[Pair, Pair] | None = None) -> None:
        """q–k by W1 = W_k, W2 = W_qᵀ (so F_q = F2ᵀ), v–o by W1 = W_v, W2 = W_o, each head by itself."""
        qk, vo = pairs or self.pairs()
        F1, F2 = coupled_singular_initialisation(*qk, self.ranks[0])
        self.F_k.copy_(F1)
        self.F_q.copy_(F2.mT)
        F1, F2 = coupled_singular_initialisation(*vo, self.ranks[1])
        self.F_v.copy_(F1)
        self.F_o.copy_(F2)

    @torch.no_grad()
    def start_he(self, generator: torch.Generator | None) -> None:
        """(4) He et al. (2015): N(0, 2 / fan-in)."""
        for funnel in (self.F_q, self.F_k, self.F_v, self.F_o):
            funnel.copy_(torch.randn(funnel.shape, generator=generator) * math.sqrt(2.0 / funnel.shape[2]))

    @torch.no_grad()
    def merged(self) -> SelfAttention:
        """(5) W_q' = F_q W_q, W_k' = F_k W_k, W_v' = F_v W_v, biases alike; W_o' = W_o F_o, whose bias stays."""
        maps = ((self.F_q, self.to_q), (self.F_k, self.to_k), (self.F_v, self.to_v))
        q, k, v = (_linear((Fn.double() @ _rows(to, self.heads).double()).flatten(0, 1), to) for Fn, to in maps)
        W_o = (_columns(self.to_out[0], self.heads).double() @ self.F_o.double()).transpose(0, 1).flatten(1)
        out = nn.Linear(W_o.shape[1], len(W_o), bias=False, device="meta")
        out.weight, out.bias = nn.Parameter(W_o.to(self.F_o.dtype).contiguous()), self.to_out[0].bias
        return SelfAttention(q, k, v, out, self.heads, self.scale)

    def pairs(self) -> tuple[Pair, Pair]:
        """[W_k | b_k] and [W_q | b_q]ᵀ, [W_v | b_v] and W_o, per head."""
        q, k, v = (_rows(to, self.heads) for to in (self.to_q, self.to_k, self.to_v))
        return (k, q.mT), (v, _columns(self.to_out[0], self.heads))


def coupled_singular_initialisation(
    W1: Float[Tensor, "h c C"], W2: Float[Tensor, "h D c"], rank: int
) -> tuple[Float[Tensor, "h r c"], Float[Tensor, "h c r"]]:
    """F1, F2 such that W2 F2 F1 W1 is the best rank-``rank`` approximation of W2 W1 (Eckart–Young), balanced; float64.

    (3) W_i = U_i S_i V_iᵀ; S2 V2ᵀ U1 S1 = U Σ Vᵀ, cut; F1 = Σ^½ Vᵀ S1⁻¹ U1ᵀ; F2 = V2 S2⁻¹ U Σ^½.
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
    if not 0.0 < fun_factor <= 1.0:
        raise SurgeryError("Impossible fun-factor", got=fun_factor, allowed="0 < r ≤ 1", where="funnel.fun_factor")
    attentions = self_attentions(unet, where)
    refuse(attentions, UNLIKE_ATTENTION)
    return attentions


def _alone(encoder_hidden_states: object, attention_mask: object) -> None:
    if encoder_hidden_states is not None or attention_mask is not None:
        raise SurgeryError("A funneled self-attention was given a context or a mask", allowed="neither", where=OP)


def _rows(linear: nn.Linear, heads: int) -> Tensor:
    """[W | b] per head: h c C, or h c C+1 with a bias."""
    columns = [linear.weight] if linear.bias is None else [linear.weight, linear.bias[:, None]]
    return torch.cat(columns, dim=1).unflatten(0, (heads, -1))


def _columns(linear: nn.Linear, heads: int) -> Tensor:
    return linear.weight.unflatten(1, (heads, -1)).transpose(0, 1)  # h C c


def _linear(weight_and_bias: Tensor, old: nn.Linear) -> nn.Linear:
    """A linear layer with the inputs of ``old`` from [W | b], or from W where ``old`` has no bias."""
    linear = nn.Linear(old.in_features, len(weight_and_bias), bias=old.bias is not None, device="meta")
    linear.weight = nn.Parameter(weight_and_bias[:, : old.in_features].to(old.weight.dtype).contiguous())
    if old.bias is not None:
        linear.bias = nn.Parameter(weight_and_bias[:, old.in_features].to(old.bias.dtype).contiguous())
    return linear


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(2, (heads, -1)).transpose(1, 2)  # [N h S c]


def _join(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)  # [N S h·c]
