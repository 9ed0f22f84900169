"""Serve: the loader that MLflow calls by name for a registered model; see ``mobilevd/pyfunc.py``."""

from pathlib import Path
from typing import Any

import numpy as np

from mobilevd.stages import generate
from mobilevd.stages.generate import Wish


class Served:
    """A bundle as MLflow wants it: ``predict(photographs, params) -> clips``."""

    def __init__(self, animate: generate.Animator):
        self._animate = animate

    def predict(self, photographs: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """B H W 3 uint8 → B F H W 3 uint8; ``params``: seed, fps, motion."""
        told = params or {}
        wish = Wish(told.get("fps"), told.get("motion"))
        return np.stack([self._animate(photo, int(told.get("seed", 0)), wish)[0] for photo in photographs])


def _load_pyfunc(folder: str) -> Served:
    """The bundle in ``folder``, in torch where it is installed. Errors: IntegrityError for a file that changed."""
    return Served(generate.animator(Path(folder), generate.backend(None)))
