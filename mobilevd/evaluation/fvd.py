"""Distances between two sets of clips, from their features: FVD and its kernel sister.

**Source** Unterthiner et al., arXiv 1812.01717 (FVD); Bińkowski et al., arXiv 1801.01401 (kernel distance).
**Keeps** scipy's matrix square root where that is stable, and 0 for identical sets (``tests/evaluation/test_fvd.py``).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from mobilevd.errors import DataError

BLOCK = 512  # rows of a kernel matrix at a time


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


class Sums:
    """What FVD needs of a set of any size: its number of clips, mean and scatter, in float64; D² numbers in all."""

    def __init__(self) -> None:
        self.clips, self.mean, self.scatter = 0, torch.zeros(()), torch.zeros(())

    def add(self, features: Float[Tensor, "N D"]) -> None:
        """Take in more clips: the mean moves, and the scatter around it is updated with it (Chan et al. 1983)."""
        x, n = features.double(), len(features)
        mean, total = x.mean(0), self.clips + n
        gap = mean - self.mean
        self.scatter = self.scatter + (x - mean).T @ (x - mean) + torch.outer(gap, gap) * (self.clips * n / total)
        self.mean, self.clips = self.mean + gap * (n / total), total


def frechet_of_sums(a: Sums, b: Sums) -> float:
    """``frechet`` of two sets of which only the sums are known; with Σ = RᵀR the trace is of the singular values again.

    Errors: DataError for fewer than two clips a set.
    """
    if min(a.clips, b.clips) < 2:
        raise DataError("A set cannot be compared", got=min(a.clips, b.clips), allowed="at least 2 clips")
    roots = []
    for sums in (a, b):
        values, vectors = torch.linalg.eigh(sums.scatter / (sums.clips - 1))
        roots.append(values.clamp_min(0).sqrt()[:, None] * vectors.T)
    R_a, R_b = roots
    spread = R_a.square().sum() + R_b.square().sum() - 2 * torch.linalg.svdvals(R_a @ R_b.T).sum()
    return max((a.mean - b.mean).square().sum().add(spread).item(), 0.0)


def kvd(features_a: Float[Tensor, "A D"], features_b: Float[Tensor, "B D"]) -> float:
    """Unbiased squared MMD under k(x, y) = (xᵀy/D + 1)³; may be slightly negative when the sets are alike.

    Unlike FVD its expectation does not depend on the number of clips. Errors: as ``frechet``.
    """
    a, b = checked(features_a, features_b)
    within = [(of_x.sum() - own.sum()) / (len(x) * (len(x) - 1)) for x in (a, b) for of_x, own in [kernel_sums(x)]]
    return (sum(within) - 2 * row_sums(a, b).sum() / (len(a) * len(b))).item()


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


def kernel_sums(x: Float[Tensor, "A D"]) -> tuple[Float[Tensor, " A"], Float[Tensor, " A"]]:
    """Per clip: the sum of its kernel over its own set, and its kernel with itself."""
    return row_sums(x, x), (x.square().sum(1) / x.shape[1] + 1) ** 3


def row_sums(a: Float[Tensor, "A D"], b: Float[Tensor, "B D"]) -> Float[Tensor, " A"]:
    """Σ_j k(a_i, b_j) with k(x, y) = (xᵀy/D + 1)³, a block of rows at a time: the whole matrix is never held."""
    return torch.cat([((rows @ b.T / a.shape[1] + 1) ** 3).sum(1) for rows in a.split(BLOCK)])
