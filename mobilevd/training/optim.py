"""AdamW whose learning rate is a function of the step: linear warm-up, then constant or cosine.

**Keeps** the optimizer's state as named tensors, so that it can be written without a pickle
(``tests/training/test_optim.py``).
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mobilevd.params import Optim

Group = tuple[Iterable[nn.Parameter], float]


def adamw(groups: list[Group], settings: Optim) -> torch.optim.AdamW:
    """AdamW over (parameters, peak learning rate) pairs."""
    return torch.optim.AdamW(
        [{"params": list(params), "lr": lr, "peak_lr": lr} for params, lr in groups],
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def share(step: int, steps: int, settings: Optim) -> float:
    """Share of the peak rate at ``step`` (from 0) of ``steps``: 1/n … 1 over n warm-up steps, then the curve."""
    warm = settings.warmup_steps
    if step < warm:
        return (step + 1) / warm
    if settings.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def set_share(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give every group ``value`` times its peak learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * value


def pack(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as ``index.name`` → tensor."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": torch.as_tensor(value) for index, s in state.items() for name, value in s.items()}


def unpack(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what ``pack`` took from an optimizer over the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
