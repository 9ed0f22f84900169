"""One learner, one loss: the trainer of the denoising finetuning.

**Keeps** a killed training continues with identical losses (``tests/training/test_supervised.py``); what the loss
is, the caller knows.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mobilevd.params import Finetune
from mobilevd.training import data, loop, seeds
from mobilevd.training.checkpoints import Checkpoints
from mobilevd.training.learner import Learner

Loss = Callable[[data.Batch, torch.Generator], Tensor]
Score = Callable[[data.Clips], float]


def train(
    network: nn.Module,
    loss: Loss,
    score: Score,
    *,
    clips: tuple[Path, Path],
    settings: Finetune,
    seed: int,
    label: str,
    checkpoints: Checkpoints | None = None,
) -> loop.Curves:
    """Train on the first of ``clips``, score the averaged weights on the second; leave the average in ``network``.

    Returns the curves loss, grad_norm, lr (every step) and val_loss (at 0, every validate_every steps, at the end).
    """
    accelerator = Accelerator()
    shown, held_out = (data.Clips(path, accelerator.device) for path in clips)
    learner = Learner(
        "network",
        network.to(accelerator.device).train(),
        settings.optim,
        settings.steps,
        accelerator,
        settings.ema_decay,
    )
    rank, ranks = accelerator.process_index, accelerator.num_processes

    def step(k: int) -> dict[str, float]:
        batch = shown.batch(data.order(len(shown), settings.batch_size, k, seed, rank, ranks))
        with accelerator.autocast():
            value = loss(batch, seeds.generator(seed, "step", k, rank))
        return {"loss": float(value.detach()), **learner.move(value, k)}

    @torch.no_grad()
    def validate() -> dict[str, float]:
        network.eval()
        with learner.ema.swapped():
            value = score(held_out)
        network.train()
        return {"val_loss": value}

    curves = loop.run(
        step,
        settings.steps,
        [learner],
        label=label,
        checkpoints=checkpoints,
        validate=validate,
        validate_every=settings.validate_every,
    )
    learner.ema.copy_to_module()
    return curves
