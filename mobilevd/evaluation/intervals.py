"""How sure a distance between sets of clips is: 95 % intervals over clips, and the curve over their number.

**Source** infinitesimal jackknife and bootstrap-t (Efron and Tibshirani 1993, ch. 12, 21); line over 1/n: Chong and
Forsyth, arXiv 1911.07023. **Keeps** the interval covers the figure *at this number of clips* at its stated rate
(``tests/evaluation/test_intervals.py``, ``benchmarks/intervals.py``). **Axes** clips x features D.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from mobilevd.errors import DataError
from mobilevd.evaluation import fvd

Distance = Literal["fvd", "kvd"]
Features = Float[Tensor, "_ _"]
RATE = 0.95
MIN_DRAWN = 8  # below, redrawn clips are too often all the same one: Student's t stands in for the bootstrap's
SHARES = (1.0, 0.75, 0.5, 0.375, 0.25)  # of the clips, for the curve
AT_ONCE = 1 << 22  # redrawn clips held at a time
RANK = 1e-10  # singular values below this share of the largest are rounding


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval over clips, for sets of ``clips`` clips."""

    value: float
    low: float
    high: float
    clips: int

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference is told from none."""
        return not self.low <= 0.0 <= self.high


@dataclass(frozen=True)
class Curve:
    """The distance over the number of clips (mean of random subsets), and a straight line through it at 1/n = 0.

    ``extrapolated`` was not measured: it says which way and how far the number of clips moves the figure.
    """

    sizes: tuple[int, ...]
    values: tuple[float, ...]
    extrapolated: float


def interval(
    a: Features,
    b: Features,
    distance: Distance = "fvd",
    *,
    paired: bool = False,
    samples: int = 1000,
    generator: torch.Generator | None = None,
) -> Interval:
    """The distance of ``a`` and ``b`` and its interval; ``paired``: clip i of one belongs to clip i of the other.

    Clips are redrawn in the distance's linear part, each clip's influence on it, so a clip drawn twice does not inflate
    the covariances as it does when whole sets are redrawn. What it covers is the mean of the distance over sets of
    this many clips, not its limit for endlessly many: see ``curve``. Near-equal sets, where the linear part vanishes,
    get too wide an interval, never too narrow a one. Errors: DataError as ``fvd.frechet``, or for unpaired lengths.
    """
    value, of_a, of_b = influence(a, b, distance)
    found = _interval(value, _grouped(of_a, of_b, paired), samples, generator)
    return Interval(value, max(found.low, 0.0), found.high, found.clips) if distance == "fvd" else found


def difference(
    real: Features,
    first: Features,
    second: Features,
    distance: Distance = "fvd",
    *,
    paired: bool = False,
    samples: int = 1000,
    generator: torch.Generator | None = None,
) -> Interval:
    """Distance of ``first`` to ``real`` less that of ``second``; clip i of both models was made from one input.

    Each clip's influences on the two distances are subtracted before clips are redrawn, so what the models share
    cancels. ``paired``: that input is real clip i. Errors: DataError as ``interval``.
    """
    one, real_one, of_first = influence(real, first, distance)
    two, real_two, of_second = influence(real, second, distance)
    _require_pairs(of_first, of_second)
    groups = _grouped(real_one - real_two, of_first - of_second, paired)
    return _interval(one - two, groups, samples, generator)


def influence(
    a: Features, b: Features, distance: Distance = "fvd"
) -> tuple[float, Float[Tensor, " A"], Float[Tensor, " B"]]:
    """The distance, and n times its derivative by the weight of each clip of ``a`` and of ``b`` (each sums to 0)."""
    a, b = fvd.checked(a, b)
    return _of_frechet(a, b) if distance == "fvd" else _of_kvd(a, b)


def curve(a: Features, b: Features, *, paired: bool = False, generator: torch.Generator | None = None) -> Curve:
    """FVD over subsets of a quarter of the clips up to all of them, drawn without replacement.

    Errors: DataError for fewer than 8 clips in the smaller set.
    """
    if (n := min(len(a), len(b))) < MIN_DRAWN:
        raise DataError("Too few clips for a curve over their number", got=n, allowed=f"at least {MIN_DRAWN}")
    sizes = tuple(round(share * n) for share in SHARES)
    values = tuple(_mean_over_subsets(a, b, size, paired, generator) for size in sizes)
    x = torch.tensor([1 / size for size in sizes], dtype=torch.float64)
    y = torch.tensor(values, dtype=torch.float64)
    slope = ((x - x.mean()) * y).sum() / (x - x.mean()).square().sum()
    return Curve(sizes, values, (y.mean() - slope * x.mean()).item())


def clips_to_decide(value: float, edge: float, limit: float, clips: int) -> int | None:
    """How many clips would move the interval's ``edge`` from beyond ``limit`` to it, at width ∝ 1/√n.

    None when no number would: the figure is at its limit.
    """
    if value == limit:
        return None
    return math.ceil(clips * ((edge - value) / (limit - value)) ** 2)


def _of_frechet(a: Tensor, b: Tensor) -> tuple[float, Tensor, Tensor]:
    """d tr(Σ_a Σ_b)^½ is the derivative of the singular values' sum of X_a X_bᵀ = U s Vᵀ: row i moves Σ_k U_ik² s_k."""
    n, m, gap = len(a), len(b), a.mean(0) - b.mean(0)
    A, B = (x - x.mean(0) for x in (a, b))
    (Q, R), (P, S) = (_orthogonal(X / (len(X) - 1) ** 0.5) for X in (A, B))
    U, s, Vh = torch.linalg.svd(R @ S.T, full_matrices=False)
    kept = s > s[:1] * RANK
    U, s, V = Q(U[:, kept]), s[kept], P(Vh[kept].T)
    tr_a, tr_b = (X.square().sum() / (len(X) - 1) for X in (A, B))
    of_a = 2 * A @ gap + A.square().sum(1) * n / (n - 1) - tr_a - (n * (U.square() @ s) - s.sum())
    of_b = -2 * B @ gap + B.square().sum(1) * m / (m - 1) - tr_b - (m * (V.square() @ s) - s.sum())
    value = gap.square().sum() + tr_a + tr_b - 2 * s.sum()
    return max(value.item(), 0.0), of_a, of_b


def _orthogonal(X: Tensor):
    """X = Q R with R of at most D rows, Q as the function that applies it; no work where X is short already."""
    if X.shape[0] <= X.shape[1]:
        return (lambda U: U), X
    Q, R = torch.linalg.qr(X)
    return (lambda U: Q @ U), R


def _of_kvd(a: Tensor, b: Tensor) -> tuple[float, Tensor, Tensor]:
    """Twice each clip's mean kernel within its set, less that to the other set, around their means."""
    parts = []
    for x, y in ((a, b), (b, a)):
        sums, own = fvd.kernel_sums(x)
        within, across = (sums - own) / (len(x) - 1), fvd.row_sums(x, y) / len(y)
        parts.append(2 * (within - within.mean()) - 2 * (across - across.mean()))
    return fvd.kvd(a, b), parts[0], parts[1]


def _grouped(of_a: Tensor, of_b: Tensor, paired: bool) -> list[Tensor]:
    """What is redrawn together: pairs of clips, or each set on its own."""
    if not paired:
        return [of_a, of_b]
    _require_pairs(of_a, of_b)
    return [of_a + of_b]


def _require_pairs(x: Tensor, y: Tensor) -> None:
    if len(x) != len(y):
        raise DataError("Paired sets have one clip each per input", got=f"{len(x)} and {len(y)}", allowed="equal")


def _interval(value: float, groups: Sequence[Tensor], samples: int, generator: torch.Generator | None) -> Interval:
    """value − t·SE with t from redrawn clips, each draw in units of its own standard error (bootstrap-t)."""
    if samples < 2:
        raise DataError("An interval needs draws", got=samples, allowed="at least 2 samples")
    clips = min(len(group) for group in groups)
    error = sum(_variance(group.mean(), group.square().mean(), len(group)) for group in groups) ** 0.5
    upper = torch.tensor([(1 - RATE) / 2, (1 + RATE) / 2], dtype=torch.float64)
    if clips < MIN_DRAWN:
        t = float(stats.t.ppf(upper[1].item(), clips - 1))
        return Interval(value, value - t * error.item(), value + t * error.item(), clips)
    draws = [_draws(group, samples, generator) for group in groups]
    means, variances = (sum(parts) for parts in zip(*draws, strict=True))
    t = means / variances.clamp_min(torch.finfo(torch.float64).tiny).sqrt()
    low, high = (value - torch.quantile(t, upper).flip(0) * error).tolist()
    return Interval(value, low, high, clips)


def _draws(group: Tensor, samples: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Mean of the redrawn influences, and its variance as each draw estimates it."""
    n, found = len(group), []
    for some in torch.arange(samples).split(max(1, AT_ONCE // n)):
        drawn = group[torch.randint(n, (len(some), n), generator=generator)]
        found.append(torch.stack([drawn.mean(1), _variance(drawn.mean(1), drawn.square().mean(1), n)]))
    means, variances = torch.cat(found, dim=1)
    return means, variances


def _variance(mean: Tensor, mean_square: Tensor, n: int) -> Tensor:
    return (mean_square - mean.square()).clamp_min(0) / (n - 1)


def _mean_over_subsets(
    a: Tensor, b: Tensor, size: int, paired: bool, generator: torch.Generator | None, draws: int = 8
) -> float:
    def subset(n: int) -> Tensor:
        return torch.randperm(n, generator=generator)[:size]

    if size == len(a) == len(b):
        return fvd.frechet(a, b)
    picks = [(p, p if paired else subset(len(b))) for p in (subset(len(a)) for _ in range(draws))]
    return sum(fvd.frechet(a[p], b[q]) for p, q in picks) / draws
