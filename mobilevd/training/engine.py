"""The machine under a training: processes, precision, memory; and what the processes must agree on.

**Keeps** two processes with batch 1 have the losses of one with batch 2; so has a network split over them
(``tests/training/test_processes.py``). Gradients are averaged by hand, not by wrapping modules in DDP: R1
differentiates through the heads twice, which DDP's hooks do not allow.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mobilevd import progress
from mobilevd.settings import Training
from mobilevd.svd import lean
from mobilevd.training import precision, sharding


class Engine:
    """accelerate as the recipe's section ``training`` asks for it."""

    def __init__(self, settings: Training):
        self.settings = settings
        on_cpu = not torch.cuda.is_available()
        self.accelerator = Accelerator(cpu=on_cpu)
        self.device, self.main = self.accelerator.device, self.accelerator.is_main_process
        self._plain = on_cpu and not (settings.compile or settings.shard)
        if note := precision.warning(self.device.type, settings.precision):
            progress.say(note)
        self.rank, self.ranks = self.accelerator.process_index, self.accelerator.num_processes

    def prepare(self, network: nn.Module) -> nn.Module:
        """The network that is trained, in place: on its device, and as lean as the recipe asks."""
        network.to(self.device).train()
        self._lean(network)
        if self.settings.shard:
            sharding.shard(network, self.device, self.settings.precision)
        if self.settings.compile:
            network.compile()
        return network

    def release(self, network: nn.Module) -> None:
        """The trained network is what it was before, but for its weights."""
        lean.restore(network)

    def autocast(self) -> AbstractContextManager:
        """Inside, the recipe's precision."""
        return precision.autocast(self.device.type, self.settings.precision)

    def scaler(self) -> torch.amp.GradScaler:
        """One optimizer's loss scaling: fp16's gradients would vanish; for other precisions it does nothing."""
        return torch.amp.GradScaler(self.device.type, enabled=self.settings.precision == "fp16")

    def place(self, frozen: nn.Module) -> nn.Module:
        """A network that only passes gradients on, in place: on the device, with as little kept for them."""
        self._lean(frozen)
        return frozen.to(self.device)

    def _lean(self, network: nn.Module) -> None:
        """Let the network keep less for its gradients."""
        if self.settings.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        if self._plain:
            lean.arrange(network)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in one exchange."""
        tensors = list(tensors)
        if self.ranks == 1 or not tensors:
            return
        flat = self.accelerator.reduce(torch.cat([t.reshape(-1) for t in tensors]), reduction="mean")
        for t, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            t.copy_(mean.view_as(t))

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
