"""Exponential moving average of weights.

**Keeps** after n updates the average is Σ of the weights seen, each with its own decayed share
(``tests/training/test_ema.py``).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mobilevd.training import sharding


class Ema:
    """The moving average of the trainable parameters of ``module``.

    The decay is min(``decay``, (1+n)/(10+n)) at update n, so that a short training forgets its start.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self._live = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights of this moment."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        live = [p.detach() for p in self._live.values()]
        sharding.lerp(list(self.average.values()), live, 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the module carries the average; afterwards its own weights again, bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def copy_to_module(self) -> None:
        """Leave the average in the module for good."""
        for name, p in self._live.items():
            p.copy_(self.average[name])

    @torch.no_grad()
    def load(self, average: dict[str, Tensor], updates: int) -> None:
        """Continue from a saved average."""
        self.updates = updates
        for name, tensor in self.average.items():
            tensor.copy_(sharding.like(average[name], tensor))

    @torch.no_grad()
    def _swap(self) -> None:
        """Exchange the two without a copy; of split weights FSDP keeps views, so those are copied."""
        for name, p in self._live.items():
            if sharding.split(p):
                own = p.detach().clone()
                p.copy_(self.average[name])
                self.average[name].copy_(own)
            else:
                p.data, self.average[name] = self.average[name], p.data
