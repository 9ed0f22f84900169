"""A base's schedule is diffusers' under the same configuration; a foreign scheduler is refused before any sampling."""

import json

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from svd_scheduler import SCHEDULER

from mobilevd.errors import RecipeError
from mobilevd.svd.scheduler import CONFIG, Schedule, read


def folder_with(tmp_path, **changes):
    path = tmp_path / CONFIG
    path.parent.mkdir()
    path.write_text(json.dumps(SCHEDULER | changes), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("sigma_min", [0.002, 0.3])
@pytest.mark.parametrize("steps", [2, 3, 25])
def test_sigmas_equal_diffusers_under_the_same_configuration(tmp_path, steps, sigma_min):
    scheduler = EulerDiscreteScheduler(**SCHEDULER | {"sigma_min": sigma_min})
    scheduler.set_timesteps(steps)
    ours = read(folder_with(tmp_path, sigma_min=sigma_min)).sigmas(steps)
    torch.testing.assert_close(ours, scheduler.sigmas, rtol=1e-5, atol=1e-9)


def test_sigmas_are_the_published_formula_and_end_at_zero():
    sigmas = Schedule().sigmas(25)
    assert (sigmas[0], sigmas[-1]) == (pytest.approx(700.0), 0.0)
    a, b = 700 ** (1 / 7), 0.002 ** (1 / 7)
    assert sigmas[10].item() == pytest.approx((a + 10 / 24 * (b - a)) ** 7, rel=1e-6)
    assert len(Schedule().sigmas(1)) == 2


def test_folder_without_scheduler_has_svds(tmp_path):
    assert read(tmp_path) == Schedule(0.002, 700.0, 7.0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"prediction_type": "epsilon"}, "prediction_type: epsilon"),
        ({"timestep_type": "discrete"}, "timestep_type: discrete"),
        ({"use_karras_sigmas": False}, "use_karras_sigmas"),
        ({"sigma_max": 80.0}, "80"),
        ({"sigma_min": 0.0}, "to 0"),
    ],
)
def test_foreign_scheduler_is_refused(tmp_path, change, named):
    with pytest.raises(RecipeError, match=named):
        read(folder_with(tmp_path, **change))
