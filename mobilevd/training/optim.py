"""Optimizers by the recipe: parameters grouped by name, each with its peak rate; the rate is a function of the step.

**Keeps** the optimizer's state as named tensors, so that it can be written without a pickle
(``tests/training/test_optim.py``).
"""

import importlib
import math
import re
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mobilevd.errors import RecipeError
from mobilevd.settings import Optim
from mobilevd.training import sharding
from mobilevd.training.muon import Muon

IN_TORCH = {"adamw": torch.optim.AdamW, "muon": Muon}
LIBRARY = {"adamw_8bit": ("bitsandbytes.optim", "AdamW8bit"), "sm3": ("pytorch_optimizer", "SM3")}
NUMBER = "#"  # ends the name of a plain number in a packed state


class Group(NamedTuple):
    """Parameters that move at one peak rate."""

    params: list[nn.Parameter]
    lr: float
    weight_decay: float = 0.0


def groups(module: nn.Module, settings: Optim) -> list[Group]:
    """The parameters that ask for a gradient, one group per peak rate; those at rate 0 stop asking for one.

    Errors: RecipeError when a rate matches no parameter, or nothing is left to move.
    """
    found: dict[float, list[nn.Parameter]] = {}
    unmatched = {rate.match for rate in settings.rates}
    for name, p in module.named_parameters():
        rate = next((rate for rate in settings.rates if re.search(rate.match, name)), None)
        if p.requires_grad:
            found.setdefault(settings.lr if rate is None else rate.lr, []).append(p)
        unmatched -= {rate.match} if rate else set()
    for p in found.pop(0.0, []):
        p.requires_grad_(False)
    if unmatched or not found:
        some = ", ".join(name for name, _ in list(module.named_parameters())[:3])
        what = "A rate matches no parameter" if unmatched else "No parameter is left to train"
        got = ", ".join(sorted(unmatched)) or "every rate is 0"
        raise RecipeError(what, got=got, allowed=f"part of a name such as {some}", where="rates of the stage's optim")
    return [Group(params, lr, settings.weight_decay) for lr, params in found.items()]


def make(groups: list[Group], settings: Optim, fused: bool = True) -> torch.optim.Optimizer:
    """The recipe's optimizer over the groups. Errors: RecipeError without its library."""
    given = [g._asdict() | {"peak_lr": g.lr} for g in groups]
    if settings.kind in IN_TORCH:
        return IN_TORCH[settings.kind](given, betas=settings.betas, fused=fused)
    kind = _from_library(settings.kind)
    if settings.kind == "sm3":
        return kind(given, lr=settings.lr, momentum=settings.betas[0], beta=settings.betas[1])
    return kind(given, lr=settings.lr, betas=settings.betas)


def require_installed(settings: Optim, stage: str) -> None:
    """Errors: RecipeError where the library of an optimizer of ``stage`` is missing."""
    if settings.kind not in IN_TORCH:
        _from_library(settings.kind, stage)


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
    """The optimizer's state as ``index.name`` → tensor, ``index.name/part`` where it has parts; numbers are marked.

    Each tensor has memory of its own: bitsandbytes shares its tables among all parameters.
    """
    packed: dict[str, Tensor] = {}
    for index, state in optimizer.state_dict()["state"].items():
        _flatten(state, f"{index}.", packed)
    seen: set[int] = set()
    for key, tensor in packed.items():
        whole = sharding.split(tensor) or tensor.data_ptr() not in seen
        packed[key] = tensor if whole else tensor.clone()
        seen |= set() if sharding.split(tensor) else {tensor.data_ptr()}
    return packed


def unpack(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what ``pack`` took, made whole, from an optimizer over the same parameters."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        own, (*parents, last) = params[int(index)], name.removesuffix(NUMBER).split("/")
        within = state.setdefault(int(index), {})
        for parent in parents:
            within = within.setdefault(parent, {})
        value = sharding.like(tensor, own) if tensor.shape == own.shape else tensor
        value = value.clone() if value.device == own.device else value  # else it stays a part of the file it came from
        within[last] = tensor.item() if name.endswith(NUMBER) else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _flatten(state: dict[str, Any], before: str, into: dict[str, Tensor]) -> None:
    for name, value in state.items():
        if isinstance(value, dict):
            _flatten(value, f"{before}{name}/", into)
        else:
            into[before + name + ("" if isinstance(value, Tensor) else NUMBER)] = torch.as_tensor(value)


def _from_library(kind: str, stage: str = "the stage") -> type[torch.optim.Optimizer]:
    module, name = LIBRARY[kind]
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        package = module.split(".")[0].replace("_", "-")
        raise RecipeError(
            "The optimizer's library is not installed",
            got=f"{kind}: {error}",
            allowed="adamw, which needs none",
            where=f"pip install {package}, or kind: of the optimizer of {stage}",
        ) from None
