"""Seeded unit noise without torch: the values that ``torch.Generator().manual_seed(seed)`` gives on a CPU.

**Source** Mersenne Twister, 24 bits a draw, Box and Muller on blocks of 16 (8 radii, 8 angles), the last block drawn
anew when 16 does not divide the count. **Keeps** torch's noise to 1e-5 (``tests/device/test_normal.py``).
"""

import math

import numpy as np

BLOCK = 16


def unit_noise(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Noise of ``shape`` in float32, of 16 values or more: a function of the seed's lower 32 bits."""
    count = math.prod(shape)
    assert count >= BLOCK, "torch draws fewer than 16 values in another way"
    draws = np.random.RandomState(seed & 0xFFFFFFFF)
    values = _uniform(draws, count)
    whole = count - count % BLOCK
    values[:whole] = _box_muller(values[:whole])
    if whole < count:
        values[-BLOCK:] = _box_muller(_uniform(draws, BLOCK))
    return values.reshape(shape)


def _uniform(draws: np.random.RandomState, count: int) -> np.ndarray:
    words = draws.randint(0, 2**32, size=count, dtype=np.uint32)
    return (words & 0xFFFFFF).astype(np.float32) * np.float32(2.0**-24)


def _box_muller(uniform: np.ndarray) -> np.ndarray:
    halves = uniform.reshape(-1, 2, BLOCK // 2)
    radius = np.sqrt(-2 * np.log(1 - halves[:, 0]))
    angle = np.float32(2 * math.pi) * halves[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).reshape(-1)
