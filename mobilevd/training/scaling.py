"""Loss scaling for fp16, in which gradients of small losses would vanish.

**Keeps** all processes find an overflow alike, and a network that is split over them is scaled as a whole one is: it is
found in the norm that they share (``tests/training/test_learner.py``, ``test_processes.py``).
"""

import math

from torch import Tensor

from mobilevd.training import sharding

START, GROWS_AFTER = 65536.0, 2000  # torch's


class LossScale:
    """A power of two, halved when a step overflows, doubled after many that did not; when not ``enabled``, 1."""

    def __init__(self, enabled: bool):
        self.enabled, self.value, self._good = enabled, START if enabled else 1.0, 0

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to go backward from."""
        return loss * self.value if self.enabled else loss

    def undo(self, grads: list[Tensor]) -> None:
        """Gradients of the loss itself, in place."""
        if self.enabled:
            sharding.scale(grads, 1.0 / self.value)

    def taken(self, norm: float) -> bool:
        """Whether the step with gradients of this norm is taken; the scale moves on."""
        if not self.enabled:
            return True
        finite = math.isfinite(norm)
        self._good = self._good + 1 if finite else 0
        if not finite:
            self.value /= 2
        elif self._good == GROWS_AFTER:
            self.value, self._good = self.value * 2, 0
        return finite

    def state(self) -> dict[str, int | float]:
        """What a checkpoint must hold."""
        return {"scale": self.value, "good": self._good} if self.enabled else {}

    def load(self, state: dict[str, int | float]) -> None:
        """Continue from what ``state`` gave."""
        self.value, self._good = (state["scale"], state["good"]) if self.enabled else (1.0, 0)
