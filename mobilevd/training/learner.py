"""A learner: a module, the parameters of it that move, their optimizer, and the average of them.

**Keeps** parameters outside its groups never move and get no gradient; a loss or gradient that is not finite stops the
training before it touches a weight (``tests/training/test_learner.py``).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from mobilevd.errors import MobileVDError
from mobilevd.settings import Optim
from mobilevd.training import optim, sharding
from mobilevd.training.ema import Ema
from mobilevd.training.engine import Engine
from mobilevd.training.scaling import LossScale


class NonFiniteError(MobileVDError):
    """A loss or a gradient that is NaN or infinite."""


class Learner:
    """One side of a training: gradients are gathered over the parts of a step, then it moves once."""

    def __init__(
        self,
        name: str,
        module: nn.Module,
        settings: Optim,
        steps: int,
        engine: Engine,
        ema_decay: float | None = None,
        groups: list[optim.Group] | None = None,
        first: int = 0,
    ):
        """``groups``: by default what the recipe's rates make of the module.

        ``first``: the step, of ``steps``, at which it begins to move, and its schedule with it.
        """
        self.name, self.module, self.settings, self.steps, self.engine = name, module, settings, steps, engine
        self.first, self.slowed = first, 1.0
        groups = groups or optim.groups(module, settings)
        self.params = [p for group in groups for p in group.params]
        fused = not any(sharding.split(p) for p in self.params)
        self._optimizer, self._scale = (
            optim.make(groups, settings, fused),
            LossScale(engine.settings.precision == "fp16"),
        )
        self.ema = None if ema_decay is None else Ema(module, ema_decay)

    def gather(self, loss: Tensor, step: int, parts: int = 1) -> None:
        """Add the gradients of one of ``parts`` equal parts of ``step`` (from 0). Errors: NonFiniteError.

        Among several processes a bad loss is noticed by all of them at once, in the gradients, when they move.
        """
        if self.engine.ranks == 1:
            self._finite("loss", float(loss.detach()), step)
        self._scale.scaled(loss / parts).backward()

    @torch.no_grad()
    def ready(self, step: int) -> float:
        """Average what was gathered over the processes, clip it, and return its norm before. Errors: NonFiniteError.

        Nothing has moved yet: where two learners share a step, both are asked before either moves.
        """
        for p in self.params:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        grads = [p.grad for p in self.params]
        self.engine.average(g for g in grads if not sharding.split(g))  # those of a split network are already
        self._scale.undo(grads)
        norm = float(sharding.norm(grads))
        if not self._scale.enabled:
            self._finite("gradient norm", norm, step)
        sharding.scale(grads, min(1.0, self.settings.max_grad_norm / (norm + 1.0e-6)))
        return norm

    def move(self, step: int, norm: float) -> dict[str, float]:
        """One update, once ``ready`` gave ``norm``. Returns grad_norm (before clipping) and lr; in fp16 loss_scale."""
        share = optim.share(step - self.first, self.steps - self.first, self.settings) * self.slowed
        optim.set_share(self._optimizer, share)
        told = {"grad_norm": norm, "lr": share * self.settings.lr}
        told |= {"loss_scale": self._scale.value} if self._scale.enabled else {}
        taken = self._scale.taken(norm)
        if taken:
            self._optimizer.step()
        self.drop()
        if not taken:
            del told["grad_norm"]
        elif self.ema is not None:
            self.ema.update()
        return told

    def drop(self) -> None:
        """Forget what was gathered."""
        self._optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Everything a checkpoint must hold, by file name; every process must ask, the first one gets it."""
        files = {self.name: self.module.state_dict(), f"{self.name}-optimizer": optim.pack(self._optimizer)}
        files |= {} if self.ema is None else {f"{self.name}-ema": self.ema.average}
        return {
            file: {key: sharding.kept(t, self.engine.main) for key, t in named.items()} for file, named in files.items()
        }

    def state(self) -> dict[str, Any]:
        """The plain values beside the tensors."""
        return {
            "ema_updates": 0 if self.ema is None else self.ema.updates,
            "slowed": self.slowed,
            "scaler": self._scale.state(),
        }

    def load(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Continue from what ``tensors`` and ``state`` gave."""
        own = self.module.state_dict()
        stored = {key: sharding.like(t, own[key]) if key in own else t for key, t in tensors[self.name].items()}
        self.module.load_state_dict(stored, strict=True)
        optim.unpack(self._optimizer, tensors[f"{self.name}-optimizer"])
        if self.ema is not None:
            self.ema.load(tensors[f"{self.name}-ema"], state["ema_updates"])
        self.slowed = state["slowed"]
        self._scale.load(state["scaler"])

    def _finite(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise NonFiniteError(
                f"The {what} of the {self.name} is not finite at step {step + 1} of {self.steps}",
                got=value,
                allowed="a finite number",
                where="lower the learning rate of this stage in the recipe, or look for broken clips",
            )
