"""Truncated singular decomposition: each self-attention matrix by itself becomes two thin ones, W ≈ U_r (Σ V)_r.

**Source** MobileVD (arXiv 2412.07583), rival in its width ablation. **Changes** W_q, W_k, W_v, W_o of
every self-attention chosen. **Keeps** r = 1 ≡ untouched; Eckart–Young's error (``tests/method/test_truncated_svd.py``).
**Axes** C_out x C_in matrices. Deviates: which matrices is our reading, by the paper's two counts.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mobilevd.errors import SurgeryError
from mobilevd.svd.affine_pairs import self_attentions

OP = "truncated_svd"
MATRICES = ("to_q", "to_k", "to_v", "to_out.0")


def apply(unet: nn.Module, fun_factor: float, where: str) -> dict:
    """Cut every matrix of the chosen self-attentions at rank r·min(C_out, C_in), in place; return the log entry.

    At r = ½ a square matrix costs what it did: 8.6 of 8.60 TFLOPs in the paper, 8.0 at r = ¼.
    Errors: SurgeryError for an impossible choice, or a matrix that is no plain linear layer (any more).
    """
    for name, linear in _matrices(unet, fun_factor, where).items():
        factored = FactoredLinear(linear, _rank(linear, fun_factor))
        U_r, ΣV_r = truncated(linear.weight, factored.right.out_features)
        with torch.no_grad():
            factored.left.weight.copy_(U_r)
            factored.right.weight.copy_(ΣV_r)
        unet.set_submodule(name, factored)
    return {"op": OP, "fun_factor": fun_factor, "where": where}


def narrow(unet: nn.Module, fun_factor: float, where: str) -> None:
    """Give the chosen self-attentions the two thin matrices without their values: what replaying a log entry needs."""
    for name, linear in _matrices(unet, fun_factor, where).items():
        unet.set_submodule(name, FactoredLinear(linear, _rank(linear, fun_factor)))


class FactoredLinear(nn.Module):
    """(1) y = U_r ((Σ V)_r x) + b: two linear layers, ``right`` (r x C_in), ``left`` (C_out x r, with the bias)."""

    def __init__(self, linear: nn.Linear, rank: int):
        super().__init__()
        like = {"device": linear.weight.device, "dtype": linear.weight.dtype}
        self.right = nn.utils.skip_init(nn.Linear, linear.in_features, rank, bias=False, **like)
        self.left = nn.utils.skip_init(nn.Linear, rank, linear.out_features, bias=False, **like)
        self.left.bias = linear.bias

    def forward(self, x: Float[Tensor, "*N C_in"]) -> Float[Tensor, "*N C_out"]:
        return self.left(self.right(x))


@torch.no_grad()
def truncated(W: Float[Tensor, "C_out C_in"], rank: int) -> tuple[Float[Tensor, "C_out r"], Float[Tensor, "r C_in"]]:
    """(2) U_r and (Σ V)_r of W = U Σ V, float64: the best approximation of that rank (Eckart–Young)."""
    U, Σ, V = torch.linalg.svd(W.double(), full_matrices=False)
    return U[:, :rank], Σ[:rank, None] * V[:rank]


def _matrices(unet: nn.Module, fun_factor: float, where: str) -> dict[str, nn.Linear]:
    if not 0.0 < fun_factor <= 1.0:
        raise SurgeryError("Impossible fun-factor", got=fun_factor, allowed="0 < r ≤ 1", where="funnel.fun_factor")
    names = [f"{name}.{matrix}" for name in self_attentions(unet, where) for matrix in MATRICES]
    matrices = {name: unet.get_submodule(name) for name in names}
    if wrong := [name for name, matrix in matrices.items() if type(matrix) is not nn.Linear]:
        raise SurgeryError("This is no single matrix to cut", got=wrong[0], allowed="plain linear layers", where=where)
    return matrices


def _rank(linear: nn.Linear, fun_factor: float) -> int:
    return max(1, round(fun_factor * min(linear.weight.shape)))
