"""Which noise levels a base is sampled at: SVD's ``scheduler/scheduler_config.json``, read and checked.

**Source** Karras et al. 2022, Eq. 5; SVD's configuration. **Keeps** diffusers' σ (``tests/svd/test_sampler.py``).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mobilevd.errors import RecipeError

CONFIG = "scheduler/scheduler_config.json"
SIGMA_MAX = 700.0
NEEDED = {"prediction_type": "v_prediction", "timestep_type": "continuous", "use_karras_sigmas": True}


@dataclass(frozen=True)
class Schedule:
    """Karras σ from ``sigma_max`` down to ``sigma_min``, then 0; SVD's own numbers unless a base brings others."""

    sigma_min: float = 0.002
    sigma_max: float = SIGMA_MAX
    rho: float = 7.0

    def sigmas(self, steps: int) -> Float[Tensor, "K"]:
        """σ_i = (σ_max^{1/ρ} + i/(n−1) (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ for i < n, then 0 (Karras et al. 2022, Eq. 5)."""
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return torch.cat([(high + ramp * (low - high)) ** self.rho, torch.zeros(1, dtype=torch.float64)]).float()


def read(folder: Path) -> Schedule:
    """The schedule of the base in ``folder``; SVD's where the folder has no scheduler.

    Errors: RecipeError for a scheduler that is not SVD's kind, or one that does not start at SVD's σ_max: distillation
    and the exported network start there.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        return Schedule()
    config = json.loads(path.read_text(encoding="utf-8"))
    for key, needed in NEEDED.items():
        if config.get(key, needed) != needed:
            raise _unfit(f"{key}: {config[key]}", f"{key}: {needed}", path)
    schedule = Schedule(float(config.get("sigma_min", 0.002)), float(config.get("sigma_max", SIGMA_MAX)))
    if schedule.sigma_max != SIGMA_MAX or not 0 < schedule.sigma_min < SIGMA_MAX:
        got = f"σ from {schedule.sigma_max:g} to {schedule.sigma_min:g}"
        raise _unfit(got, f"σ from {SIGMA_MAX:g} down to a positive number", path)
    return schedule


def _unfit(got: str, allowed: str, path: Path) -> RecipeError:
    return RecipeError("The base's scheduler is not SVD's", got=got, allowed=allowed, where=str(path))
