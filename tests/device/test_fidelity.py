import numpy as np
import pytest

from mobilevd.device.fidelity import sqnr_db
from mobilevd.errors import EffectError


def test_sqnr_is_the_power_of_the_signal_over_the_power_of_the_error():
    y = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    error = np.float32(0.01) * np.ones_like(y)
    expected = 10 * np.log10(
        (y.astype(float) ** 2).sum() / ((y + error).astype(float) - y.astype(float)).__pow__(2).sum()
    )
    assert sqnr_db(y, y + error) == pytest.approx(expected, abs=1e-9)


def test_ten_times_the_error_costs_twenty_decibels():
    y = np.random.default_rng(0).normal(size=100)
    assert sqnr_db(y, y + 0.01) - sqnr_db(y, y + 0.1) == pytest.approx(20.0)


def test_equal_bits_are_two_hundred_decibels():
    assert sqnr_db(np.ones(3), np.ones(3)) == 200.0


@pytest.mark.parametrize("got", [np.array([1.0, np.nan]), np.array([1.0, np.inf]), np.ones(3)])
def test_values_that_cannot_be_compared_are_errors(got):
    with pytest.raises(EffectError):
        sqnr_db(np.ones(2), got)


def test_a_reference_without_signal_is_an_error():
    with pytest.raises(EffectError, match="zero everywhere"):
        sqnr_db(np.zeros(2), np.ones(2))
