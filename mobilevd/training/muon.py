"""**Source** Muon (Jordan et al. 2024), its steps as long as AdamW's (Moonlight, arXiv 2502.16982).

**Changes** how fast weights learn: matrices and convolutions move by the orthogonal matrix nearest to their averaged
gradient, everything else by AdamW. ``torch.optim.Muon`` takes neither convolutions nor weights split by FSDP2.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mobilevd.training import sharding
from mobilevd.training.precision import has

WIDE = 32  # channels on both sides; the outermost layers of a network have fewer and are left to AdamW
QUINTIC = 3.4445, -4.7750, 2.0315  # of the iteration: steep at zero, so that five rounds are enough
ROUNDS = 5
AS_ADAMW = 0.2  # root mean square of AdamW's usual update, in learning rates (Moonlight, Sec. 2.2)


class Muon(torch.optim.AdamW):
    """AdamW, but for weights of at least ``WIDE`` by ``WIDE`` channels; ``betas[0]`` is the momentum of both."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Move every weight once; ``closure``, if any, computes the loss and its gradients first."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        wide = [(p, p.grad) for group in self.param_groups for p in group["params"] if _wide(p)]
        for group in self.param_groups:
            self._move(group)
        super().step()  # leaves alone what has no gradient
        for p, grad in wide:
            p.grad = grad
        return loss

    def _move(self, group: dict[str, Any]) -> None:
        """Move the wide weights of ``group``, those of one shape together, and take their gradients away."""
        alike = defaultdict(list)
        for p in group["params"]:
            if _wide(p) and p.grad is not None:
                alike[len(p), p.numel() // len(p)].append(p)
        for shape, params in alike.items():
            steps = orthogonal(torch.stack([self._direction(p, group["betas"][0]) for p in params]))
            for p, step in zip(params, steps, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(sharding.like(step.view(p.shape), p), alpha=group["lr"] * AS_ADAMW * max(shape) ** 0.5)

    def _direction(self, p: Tensor, momentum: float) -> Tensor:
        grad, p.grad = p.grad, None
        state = self.state[p]
        if not state:  # a step count is what AdamW looks for in any state that it loads
            state |= {"step": torch.tensor(0.0), "momentum_buffer": torch.zeros_like(p)}
        state["step"] += 1
        average = state["momentum_buffer"].lerp_(grad, 1 - momentum)
        return sharding.whole(grad.lerp(average, momentum)).flatten(1)


def orthogonal(matrices: Tensor) -> Tensor:
    """U Vᵀ of each (N, rows, columns) U S Vᵀ, roughly: what is not tiny in S comes out between 0.65 and 1.25."""
    a, b, c = QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.bfloat16() if matrices.is_cuda or has("bf16") else matrices
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


def _wide(p: Tensor) -> bool:
    return p.ndim >= 2 and min(p.shape[:2]) >= WIDE
