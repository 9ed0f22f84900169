"""A learner: a module, the parameters of it that move, their optimizer, and the average of them.

**Keeps** parameters outside its groups never move and get no gradient; a loss or gradient that is not finite stops the
training before it touches a weight (``tests/training/test_learner.py``).
"""

import math
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mobilevd.errors import MobileVDError
from mobilevd.params import Optim
from mobilevd.training import optim
from mobilevd.training.ema import Ema


class NonFiniteError(MobileVDError):
    """A loss or a gradient that is NaN or infinite."""


class Learner:
    """One side of a training. Several processes are kept equal by averaging gradients, not by wrapping the module."""

    def __init__(
        self,
        name: str,
        module: nn.Module,
        settings: Optim,
        steps: int,
        accelerator: Accelerator,
        ema_decay: float | None = None,
        groups: list[optim.Group] | None = None,
    ):
        """``groups``: (parameters, peak learning rate); by default all that ask for a gradient, at settings.lr."""
        self.name, self.module, self.settings, self.steps = name, module, settings, steps
        self._accelerator = accelerator
        groups = groups or [([p for p in module.parameters() if p.requires_grad], settings.lr)]
        self.params = [p for params, _ in groups for p in params]
        self._optimizer = accelerator.prepare_optimizer(optim.adamw(groups, settings))
        self.ema = None if ema_decay is None else Ema(module, ema_decay)

    def move(self, loss: Tensor, step: int) -> dict[str, float]:
        """One update at ``step`` (from 0). Returns grad_norm (before clipping) and lr. Errors: NonFiniteError."""
        self._finite("loss", float(loss.detach()), step)
        share = optim.share(step, self.steps, self.settings)
        optim.set_share(self._optimizer, share)
        self._accelerator.backward(loss)
        self._average_gradients()
        norm = float(self._accelerator.clip_grad_norm_(self.params, self.settings.max_grad_norm))
        self._finite("gradient norm", norm, step)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update()
        return {"grad_norm": norm, "lr": share * self.settings.lr}

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes checkpoints."""
        return self._accelerator.is_main_process

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Everything a checkpoint must hold, by file name."""
        files = {self.name: self.module.state_dict(), f"{self.name}-optimizer": optim.pack(self._optimizer)}
        return files if self.ema is None else {**files, f"{self.name}-ema": self.ema.average}

    def state(self) -> dict[str, Any]:
        """The plain values beside the tensors."""
        return {"ema_updates": 0 if self.ema is None else self.ema.updates}

    def load(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Continue from what ``tensors`` and ``state`` gave."""
        self.module.load_state_dict(tensors[self.name], strict=True)
        optim.unpack(self._optimizer, tensors[f"{self.name}-optimizer"])
        if self.ema is not None:
            self.ema.load(tensors[f"{self.name}-ema"], state["ema_updates"])

    def _average_gradients(self) -> None:
        if self._accelerator.num_processes == 1:
            return
        for p in self.params:
            grad = p.grad if p.grad is not None else torch.zeros_like(p)
            p.grad = self._accelerator.reduce(grad, reduction="mean")

    def _finite(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise NonFiniteError(
                f"The {what} of the {self.name} is not finite at step {step + 1} of {self.steps}",
                got=value,
                allowed="a finite number",
                where="lower the learning rate of this stage in the recipe, or look for broken clips",
            )
