"""The machine under a training: processes, precision, memory; and what the processes must agree on.

**Keeps** two processes with batch 1 have the losses of one with batch 2; so has a network split over them
(``tests/training/test_processes.py``). Gradients are averaged by hand, not by wrapping modules in DDP: R1
differentiates through the heads twice, which DDP's hooks do not allow.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list
from torch import Tensor, nn

from mobilevd import progress
from mobilevd.settings import Training
from mobilevd.svd import lean, recompute
from mobilevd.training import precision, sharding

BUCKET = 1 << 23  # numbers averaged in one exchange, for which they are copied; a larger tensor is one of its own


class Engine:
    """accelerate as the recipe's section ``training`` asks for it."""

    def __init__(self, settings: Training):
        self.settings = settings
        on_cpu = not torch.cuda.is_available()
        self.accelerator = Accelerator(cpu=on_cpu)
        self.device, self.main = self.accelerator.device, self.accelerator.is_main_process
        self._plain = on_cpu and not settings.compile
        self._unsplit: Callable[[], None] = lambda: None
        if note := precision.warning(self.device.type, settings.precision):
            progress.say(note)
        self.leads_machine = self.accelerator.is_local_main_process
        self.rank, self.ranks = self.accelerator.process_index, self.accelerator.num_processes

    def prepare(self, network: nn.Module) -> nn.Module:
        """The network that is trained, in place: on its device, and as lean as the recipe asks."""
        network.to(self.device).train()
        self._lean(network)
        if self.settings.shard:
            self._unsplit = sharding.shard(network, self.device, self.settings.precision)
        if self.settings.compile:
            network.compile()
        return network

    def release(self, network: nn.Module) -> None:
        """The trained network is what it was before, but for its weights; all processes must ask."""
        self._unsplit()
        lean.restore(recompute.restore(network))

    def autocast(self) -> AbstractContextManager:
        """Inside, the recipe's precision."""
        return precision.autocast(self.device.type, self.settings.precision)

    def place(self, frozen: nn.Module) -> nn.Module:
        """A network that only passes gradients on, in place: on the device, with as little kept for them."""
        self._lean(frozen)
        return frozen.to(self.device)

    def _lean(self, network: nn.Module) -> None:
        """Let the network keep less for its gradients."""
        if self.settings.gradient_checkpointing:
            recompute.arrange(network)
        if self._plain:
            lean.arrange(network)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in as few exchanges as ``BUCKET`` allows."""
        for bucket in _buckets(tensors) if self.ranks > 1 else ():
            flat = self.accelerator.reduce(torch.cat([t.reshape(-1) for t in bucket]), reduction="mean")
            for t, mean in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
                t.copy_(mean.view_as(t))

    def tell(self, value: object) -> Any:
        """The first process's ``value``, in all of them."""
        return broadcast_object_list([value])[0]

    def spread(self, t: Tensor) -> Tensor:
        """The first process's tensor, in all of them; those of the others have its form."""
        return broadcast(t.to(self.device)).cpu()

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Every value's mean over the processes, so that all of them record and decide the same."""
        if self.ranks == 1:
            return values
        together = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        self.average([together])
        return dict(zip(values, together.tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is up on any process."""
        return self.mean({"flag": float(flag)})["flag"] > 0.0


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors in their order, as many together as fit."""
    bucket, numbers = [], 0
    for t in tensors:
        if bucket and numbers + t.numel() > BUCKET:
            yield bucket
            bucket, numbers = [], 0
        bucket.append(t)
        numbers += t.numel()
    if bucket:
        yield bucket
