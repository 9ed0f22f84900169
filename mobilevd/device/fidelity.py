"""How near a graph's output is to its reference: signal to quantization-noise ratio in decibels.

**Source** SQNR = 10 log₁₀ (Σ y² / Σ (y − ŷ)²) · **Keeps** the formula (``tests/device/test_fidelity.py``).
"""

import numpy as np

from mobilevd.errors import EffectError

EQUAL_DB = 200.0


def sqnr_db(reference: np.ndarray, got: np.ndarray) -> float:
    """SQNR of ``got`` against ``reference`` in dB, computed in float64; 200 dB stands for equal bits.

    Errors: EffectError for values that are not finite, another shape, or a reference without any signal.
    """
    if reference.shape != got.shape:
        raise EffectError("The two outputs differ in shape", got=got.shape, allowed=str(reference.shape))
    y, y_hat = reference.astype(np.float64), got.astype(np.float64)
    if not (np.isfinite(y).all() and np.isfinite(y_hat).all()):
        raise EffectError("An output holds values that are not finite", got="NaN or infinity", allowed="finite values")
    signal, noise = float((y**2).sum()), float(((y - y_hat) ** 2).sum())
    if signal == 0.0:
        raise EffectError("The reference output is zero everywhere", got=0.0, allowed="an output with some signal")
    return EQUAL_DB if noise == 0.0 else min(EQUAL_DB, 10.0 * float(np.log10(signal / noise)))
