"""A long training that can be stopped at any time: seeded steps, an averaged copy, checkpoints in safetensors."""

import json
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mobilevd.progress import track
from mobilevd.settings import Optim
from mobilevd.training import optim

BETAS = {"adamw": (0.9, 0.98), "muon": (0.95, 0.98)}


@dataclass(frozen=True)
class Plan:
    """How long and how fast: cosine from ``lr`` to a hundredth of it after ``warmup`` linear steps of ``kind``."""

    steps: int
    lr: float
    kind: str = "adamw"
    warmup: int = 50
    ema: float = 0.998
    checkpoint_every: int = 100
    seed: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of ``step``."""
        progress = torch.tensor(torch.pi * min(1.0, step / self.steps))
        return self.lr * min(1.0, (step + 1) / self.warmup) * (0.01 + 0.99 * 0.5 * (1 + float(progress.cos())))


def train(net: nn.Module, loss_at: Callable[[torch.Generator], Tensor], plan: Plan, folder: Path) -> nn.Module:
    """Minimise ``loss_at(generator)`` over ``net``; continue from a checkpoint in ``folder``; return the average."""
    averaged = deepcopy(net).requires_grad_(False)
    settings = Optim(kind=plan.kind, lr=plan.lr, betas=BETAS[plan.kind], weight_decay=0.01)
    optimizer = optim.make(optim.groups(net, settings), settings, fused=False)
    start = _resume(net, averaged, optimizer, folder)
    recent: list[float] = []
    began = time.time()
    for step in track(range(start, plan.steps), plan.steps - start, f"training {folder.name}"):
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        optimizer.param_groups[0]["lr"] = plan.rate(step)
        loss = loss_at(generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        _average(averaged, net, min(plan.ema, (step + 1) / (step + 10)))
        recent.append(float(loss.detach()))
        if (step + 1) % plan.checkpoint_every == 0 or step + 1 == plan.steps:
            _checkpoint(net, averaged, optimizer, step + 1, folder)
            _log(folder, step + 1, sum(recent) / len(recent), time.time() - began)
            recent, began = [], time.time()
    return averaged


@torch.no_grad()
def _average(averaged: nn.Module, net: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(averaged.parameters()), list(net.parameters()), 1 - decay)


def _checkpoint(net: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer, step: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"net.{k}": v for k, v in net.state_dict().items()}
    tensors |= {f"averaged.{k}": v for k, v in averaged.state_dict().items()}
    tensors |= {f"optimizer.{k}": v for k, v in optim.pack(optimizer).items()}
    tensors["step"] = torch.tensor(step)
    aside = folder / "checkpoint.part"
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, aside)
    aside.replace(folder / "checkpoint.safetensors")


def _resume(net: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> int:
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0
    tensors = load_file(path)
    net.load_state_dict(_under(tensors, "net."))
    averaged.load_state_dict(_under(tensors, "averaged."))
    optim.unpack(optimizer, _under(tensors, "optimizer."))
    return int(tensors["step"])


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _log(folder: Path, step: int, loss: float, seconds: float) -> None:
    with (folder / "log.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"step": step, "loss": round(loss, 5), "seconds": round(seconds, 1)}) + "\n")
