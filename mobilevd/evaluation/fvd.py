"""Distances between two sets of clips, from their features: FVD and its kernel sister.

**Source** Unterthiner et al., arXiv 1812.01717 (FVD); Bińkowski et al., arXiv 1801.01401 (kernel distance).
**Keeps** scipy's matrix square root where that is stable, and 0 for identical sets (``tests/evaluation/test_fvd.py``).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from mobilevd.errors import DataError


def frechet(features_a: Float[Tensor, "A D"], features_b: Float[Tensor, "B D"]) -> float:
    """|μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½), covariances with n − 1, in float64; at least 0.

    With Σ = XᵀX for the centred, scaled features X, the last trace is the sum of the singular values of X_a X_bᵀ: no
    square root of a singular matrix is taken, so fewer clips than features are as stable as many.
    Errors: DataError for fewer than two clips a set, other feature lengths, or features that are not finite.
    """
    a, b = checked(features_a, features_b)
    X_a, X_b = _scaled(a), _scaled(b)
    between = torch.linalg.svdvals(_small(X_a) @ _small(X_b).T).sum()
    spread = X_a.square().sum() + X_b.square().sum() - 2 * between
    return max((a.mean(0) - b.mean(0)).square().sum().add(spread).item(), 0.0)


def kvd(features_a: Float[Tensor, "A D"], features_b: Float[Tensor, "B D"]) -> float:
    """Unbiased squared MMD under k(x, y) = (xᵀy/D + 1)³; may be slightly negative when the sets are alike.

    Unlike FVD its expectation does not depend on the number of clips. Errors: as ``frechet``.
    """
    a, b = checked(features_a, features_b)
    return (_within(a) + _within(b) - 2 * kernel(a, b).mean()).item()


def checked(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets in float64, [clips, features]. Errors: as ``frechet``."""
    for name, x in (("first", a), ("second", b)):
        if x.ndim != 2 or len(x) < 2:
            allowed = "[clips, features] of at least 2 clips"
            raise DataError(f"The {name} set cannot be compared", got=list(x.shape), allowed=allowed)
        if not torch.isfinite(x).all():
            rows = (~torch.isfinite(x).all(dim=1)).nonzero().flatten().tolist()
            raise DataError(f"The {name} set has features that are not finite", got=f"clips {rows}", allowed="numbers")
    if a.shape[1] != b.shape[1]:
        raise DataError("The sets have other features", got=f"{a.shape[1]} and {b.shape[1]}", allowed="one network's")
    return a.double(), b.double()


def _scaled(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / (len(x) - 1) ** 0.5


def _small(X: Tensor) -> Tensor:
    """A matrix of at most D rows with the same XᵀX, hence the same singular values of the product."""
    return torch.linalg.qr(X, mode="r").R if X.shape[0] > X.shape[1] else X


def kernel(a: Float[Tensor, "A D"], b: Float[Tensor, "B D"]) -> Float[Tensor, "A B"]:
    """k(x, y) = (xᵀy/D + 1)³ of every pair."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def _within(x: Tensor) -> Tensor:
    K, n = kernel(x, x), len(x)
    return (K.sum() - K.diagonal().sum()) / (n * (n - 1))
