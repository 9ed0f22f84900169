"""The noise without torch is torch's."""

import numpy as np
import pytest
import torch

from mobilevd.device.normal import unit_noise
from mobilevd.svd.sampler import clip_noise


@pytest.mark.parametrize("seed", [0, 7, 2**31 + 5, 2**32 + 3])
@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (3, 1, 1, 7), (14, 4, 16, 32), (2, 4, 3, 5)])
def test_noise_is_torchs_for_every_seed_and_count(seed, shape):
    expected = clip_noise([seed], shape)[0].numpy()
    made = unit_noise(seed, shape)
    assert made.dtype == np.float32
    assert np.abs(made - expected).max() < 1e-5


def test_noise_is_unit_and_another_seed_gives_other_noise():
    one, two = unit_noise(1, (64, 64)), unit_noise(2, (64, 64))
    assert abs(one.std() - 1) < 0.05
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.05
    assert torch.equal(torch.from_numpy(one), torch.from_numpy(unit_noise(1, (64, 64))))
