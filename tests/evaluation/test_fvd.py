"""Distances: scipy's value, zero for the same set, symmetry, order."""

import numpy as np
import pytest
import scipy.linalg
import torch

from mobilevd.errors import DataError
from mobilevd.evaluation.fvd import Sums, frechet, frechet_of_sums, kvd


def draw(n: int, d: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(99), dtype=torch.float64) / d**0.5
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix + shift


def scipy_frechet(a: torch.Tensor, b: torch.Tensor) -> float:
    """The textbook formula, stable when both covariances have full rank."""
    x, y = a.numpy(), b.numpy()
    s, t = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s + t - 2 * scipy.linalg.sqrtm(s @ t).real))


@pytest.mark.parametrize(("n", "m"), [(200, 200), (60, 300)])
def test_frechet_equals_scipys_matrix_square_root(n, m):
    a, b = draw(n, 12, 0), 1.5 * draw(m, 12, 1, shift=0.3)
    assert frechet(a, b) == pytest.approx(scipy_frechet(a, b), rel=1e-8)


def test_frechet_is_right_with_fewer_clips_than_features():
    """Sets in orthogonal planes: Σ_a Σ_b = 0, so the distance is the plain sum of means and variances."""
    a, b = torch.zeros(5, 400), torch.zeros(7, 400)
    a[:, 0], b[:, 1] = torch.arange(5.0), 10 * torch.arange(7.0)
    expected = 2.0**2 + 30.0**2 + 2.5 + 100 * 28 / 6
    assert frechet(a, b) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [2, 16, 500])
def test_the_same_set_is_at_distance_zero(n):
    a = 10 * draw(n, 400, 0)
    assert frechet(a, a.clone()) == pytest.approx(0.0, abs=1e-6)


def test_frechet_is_symmetric_and_ignores_order():
    a, b = draw(16, 400, 0), draw(20, 400, 1, shift=0.2)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-9)
    assert frechet(a, b) == pytest.approx(frechet(a[order], b), rel=1e-9)


def test_frechet_of_a_shift_is_its_square():
    a = draw(30, 400, 0)
    assert frechet(a, a + 0.5) == pytest.approx(400 * 0.25, rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(50, 60), (500, 700)])
def test_sums_taken_in_parts_give_the_distance_of_the_whole(n, m):
    """With fewer clips than features and with more; means far from zero, where plain sums of squares lose digits."""
    a, b = draw(n, 100, 0, shift=1e4), 1.5 * draw(m, 100, 1, shift=1e4)
    whole, parts = frechet(a, b), []
    for x in (a, b):
        sums = Sums()
        for part in x.split(33):
            sums.add(part)
        parts.append(sums)
    assert frechet_of_sums(*parts) == pytest.approx(whole, rel=1e-6)
    with pytest.raises(DataError, match="at least 2 clips"):
        frechet_of_sums(Sums(), parts[0])


def test_kernel_distance_equals_the_double_sum():
    a, b = draw(4, 3, 0), draw(5, 3, 1, shift=0.5)
    kernel = lambda x, y: float((x @ y / 3 + 1) ** 3)  # noqa: E731
    within = lambda s: np.mean([kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j])  # noqa: E731
    expected = within(a) + within(b) - 2 * np.mean([kernel(x, y) for x in a for y in b])
    assert kvd(a, b) == pytest.approx(expected, rel=1e-12)


def test_kernel_distance_is_unbiased():
    """Over many pairs of small sets of one distribution it averages to zero, which FVD does not."""
    values = [kvd(draw(8, 6, 2 * i), draw(8, 6, 2 * i + 1)) for i in range(300)]
    error = np.std(values) / len(values) ** 0.5
    assert abs(np.mean(values)) < 3 * error
    assert np.mean([frechet(draw(8, 6, 2 * i), draw(8, 6, 2 * i + 1)) for i in range(20)]) > 0.5


@pytest.mark.parametrize("distance", [frechet, kvd])
def test_sets_that_cannot_be_compared_are_refused(distance):
    good, bad = draw(4, 3, 0), draw(4, 3, 1)
    bad[2, 1] = float("nan")
    for a, b, message in (
        (good[:1], good, "first set cannot"),
        (good, bad, r"clips \[2\]"),
        (bad, good, "first set has"),
    ):
        with pytest.raises(DataError, match=message):
            distance(a, b)
    with pytest.raises(DataError, match="3 and 2"):
        getattr(distance, "__wrapped__", distance)(good, good[:, :2])
