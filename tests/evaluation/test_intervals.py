"""Intervals cover at their rate, one model twice is not two, and no clip counts twice in a covariance."""

import numpy as np
import pytest
import torch

from mobilevd.errors import DataError
from mobilevd.evaluation import fvd, intervals

D = 24


def draw(n: int, seed: int, models: int = 1, d: int = D) -> list[torch.Tensor]:
    """Real clips, then each model's clips made from the same inputs: wider, and shifted."""
    g = torch.Generator().manual_seed(seed)
    shared, *own = torch.randn(2 + models, n, d, generator=g, dtype=torch.float64)
    spectrum = torch.arange(1, d + 1, dtype=torch.float64).rsqrt()
    real, *made = (0.6 * shared + 0.8 * noise for noise in own)
    return [real * spectrum, *((1.3 * x + 0.3) * spectrum for x in made)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("distance", "n"), [("fvd", 16), ("fvd", 48), ("kvd", 48)])
def test_interval_covers_the_figure_at_its_rate(distance, n):
    """250 trials: the standard error of 95 % is 1.4 points, so 3 points and two of them are allowed."""
    found = [
        intervals.interval(*draw(n, s), distance, paired=True, samples=200, generator=seeded(s)) for s in range(250)
    ]
    truth = np.mean([one.value for one in found])
    covered = np.mean([one.low <= truth <= one.high for one in found])
    assert abs(covered - 0.95) <= 0.03 + 2 * 0.014


def test_interval_is_as_wide_as_the_true_spread():
    """Redrawing whole sets gave 1.4 to 2 times as much."""
    found = [intervals.interval(*draw(64, s), paired=True, samples=200, generator=seeded(s)) for s in range(100)]
    width = np.mean([one.high - one.low for one in found])
    assert width == pytest.approx(2 * 1.96 * np.std([one.value for one in found]), rel=0.2)


def test_two_copies_of_a_model_are_called_different_in_at_most_one_trial_of_twenty():
    trials = 250
    called = [
        intervals.difference(*draw(32, s, models=2), paired=True, samples=200, generator=seeded(s)).excludes_zero
        for s in range(trials)
    ]
    assert np.mean(called) <= 0.05 + 2 * 0.014


def test_a_worse_model_is_told_from_a_better_one_and_pairing_narrows():
    real, one, two = draw(48, 0, models=2)
    worse = one + 0.4
    found = intervals.difference(real, worse, one, paired=True, generator=seeded())
    assert found.excludes_zero
    assert found.low > 0
    assert found.value == pytest.approx(fvd.frechet(real, worse) - fvd.frechet(real, one))
    same = intervals.difference(real, one, one.clone(), paired=True, generator=seeded())
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    alone = intervals.interval(real, worse, paired=True, generator=seeded())
    assert found.high - found.low < alone.high - alone.low
    assert intervals.difference(real, two, one, generator=seeded()).clips == 48


def weighted(x: torch.Tensor, clip: int | None = None, more: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean, and a square root of the covariance, when one clip weighs ``more`` and the others less."""
    n = len(x)
    w = torch.full((n,), (1 - more) / n, dtype=torch.float64)
    if clip is not None:
        w[clip] += more
    mean = w @ x
    return mean, (w * n / (n - 1)).sqrt()[:, None] * (x - mean)


def frechet(a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor]) -> float:
    spread = a[1].square().sum() + b[1].square().sum() - 2 * torch.linalg.svdvals(a[1] @ b[1].T).sum()
    return ((a[0] - b[0]).square().sum() + spread).item()


@pytest.mark.parametrize(("n", "m"), [(40, 30), (12, 9)])
def test_influence_is_the_derivative_by_a_clips_weight(n, m):
    """Central differences of the formula with weights, for more clips than features and for fewer."""
    a, b = draw(n, 0)[0], draw(m, 1)[1]
    value, of_a, of_b = intervals.influence(a, b)
    assert value == pytest.approx(fvd.frechet(a, b), rel=1e-9)
    h = 1e-5
    for i in range(0, m, 3):
        by_a = (frechet(weighted(a, i, h), weighted(b)) - frechet(weighted(a, i, -h), weighted(b))) / (2 * h)
        by_b = (frechet(weighted(a), weighted(b, i, h)) - frechet(weighted(a), weighted(b, i, -h))) / (2 * h)
        assert (of_a[i].item(), of_b[i].item()) == pytest.approx((by_a, by_b), rel=1e-4, abs=1e-4)


def test_influence_on_the_kernel_distance_is_the_change_when_a_clip_is_left_out():
    a, b = draw(40, 0)[0], draw(30, 1)[1]
    value, of_a, of_b = intervals.influence(a, b, "kvd")
    assert value == fvd.kvd(a, b)
    for influence, without in (
        (of_a, [fvd.kvd(torch.cat([a[:i], a[i + 1 :]]), b) for i in range(40)]),
        (of_b, [fvd.kvd(a, torch.cat([b[:i], b[i + 1 :]])) for i in range(30)]),
    ):
        left_out = (len(without) - 1) * (np.mean(without) - np.array(without))
        np.testing.assert_allclose(influence.numpy(), left_out, rtol=0.1, atol=0.15 * left_out.std())


def test_interval_is_seeded_holds_the_figure_and_is_zero_for_the_same_set():
    a, b = draw(16, 0)
    first, again = (intervals.interval(a, b, paired=True, generator=seeded(5)) for _ in range(2))
    assert first == again
    assert first.low < first.value < first.high
    same = intervals.interval(a, a.clone(), paired=True, generator=seeded())
    assert same.high == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("n", [2, 4, 8])
def test_few_clips_have_a_wide_and_finite_interval(n):
    found = intervals.interval(*draw(n, 0), paired=True, generator=seeded())
    assert 0 <= found.low < found.high < float("inf")
    assert found.high - found.low > 0.5 * found.value


def test_curve_falls_with_clips_and_its_line_is_nearer_the_truth():
    spectrum = torch.arange(1, D + 1, dtype=torch.float64).rsqrt()
    truth = 2 * (0.3 * spectrum).square().sum().item()  # of the means, and of widths 1 and 1.3
    found = intervals.curve(*draw(160, 3), paired=True, generator=seeded())
    assert found.sizes == (160, 120, 80, 60, 40)
    assert list(found.values) == sorted(found.values)
    assert abs(found.extrapolated - truth) < 0.5 * abs(found.values[0] - truth)


def test_number_of_clips_that_would_decide():
    """Half as wide needs four times as many; an edge already past the limit needs no more than there are."""
    assert intervals.clips_to_decide(value=10.0, edge=14.0, limit=12.0, clips=16) == 64
    assert intervals.clips_to_decide(value=10.0, edge=11.0, limit=12.0, clips=16) == 4
    assert intervals.clips_to_decide(value=12.0, edge=14.0, limit=12.0, clips=16) is None


def test_sets_that_cannot_be_compared_are_refused():
    a, b = draw(8, 0)
    with pytest.raises(DataError, match="8 and 7"):
        intervals.interval(a, b[:7], paired=True)
    with pytest.raises(DataError, match="8 and 7"):
        intervals.difference(a, b, b[:7])
    with pytest.raises(DataError, match="at least 2 samples"):
        intervals.interval(a, b, samples=1)
    with pytest.raises(DataError, match="curve"):
        intervals.curve(a[:7], b)
    a[3, 2] = float("nan")
    with pytest.raises(DataError, match=r"clips \[3\]"):
        intervals.interval(a, b)
