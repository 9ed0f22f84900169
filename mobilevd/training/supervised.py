"""One learner, one loss: the trainer of the denoising finetuning.

**Keeps** a killed training continues with identical losses (``tests/training/test_supervised.py``); what the loss
is, the caller knows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from mobilevd.settings import Finetune, Training
from mobilevd.training import data, loop
from mobilevd.training.checkpoints import Checkpoints
from mobilevd.training.engine import Engine
from mobilevd.training.health import Watch
from mobilevd.training.learner import Learner

Loss = Callable[[data.Batch, list[torch.Generator]], Tensor]
Score = Callable[[data.Clips, int], dict[str, float]]


@dataclass(frozen=True)
class Lesson:
    """What one supervised training needs.

    ``loss`` of a batch, with a generator for each of its clips; ``score`` the validation clips at a step: val_loss, and
    what else is to be recorded. ``ids`` [N 3] or [1 3]: the added ids of the training clips, [1 3] of the others.
    """

    network: nn.Module
    loss: Loss
    score: Score
    clips: tuple[Path, Path]
    ids: tuple[Tensor, Tensor]
    settings: Finetune
    seed: int
    label: str
    how: Training = field(default_factory=Training)
    checkpoints: Checkpoints | None = None
    tell: loop.Tell | None = None


def train(lesson: Lesson) -> loop.Run:
    """Train on the first of ``clips``, score the averaged weights on the second; leave the average in ``network``.

    The curves are loss, grad_norm, lr (every step) and what ``score`` gives (at 0, every validate_every, at the end).
    """
    engine, s, network = Engine(lesson.how), lesson.settings, lesson.network
    shown, held_out = (data.Clips(path, ids) for path, ids in zip(lesson.clips, lesson.ids, strict=True))
    share = data.Share(s.batch_size, s.accumulate, engine.rank, engine.ranks)
    feed = data.Feed(shown, share, lesson.seed, engine.device, lesson.how.workers)
    engine.prepare(network)
    learner = Learner("network", network, s.optim, s.steps, engine, s.ema_decay)

    def step(k: int) -> dict[str, float]:
        losses = []
        for part in feed.parts(k):
            with engine.autocast():
                loss = lesson.loss(part.batch, part.generators)
            learner.gather(loss, k, s.accumulate)
            losses.append(float(loss.detach()))
        return {"loss": sum(losses) / len(losses), **learner.move(k, learner.ready(k))}

    @torch.no_grad()
    def validate(k: int) -> dict[str, float]:
        network.eval()
        with learner.ema.swapped(), engine.autocast():
            values = lesson.score(held_out, k)
        network.train()
        return values

    trained = loop.run(
        loop.Training(
            step,
            s.steps,
            [learner],
            lesson.label,
            validate,
            s.validate_every,
            lesson.checkpoints,
            lesson.how.checkpoint_every,
            score="val_loss",
            leave_best=lesson.how.leave == "best",
            watch=Watch(lesson.how.health),
            tell=lesson.tell,
        )
    )
    trained.seconds["clips"] = feed.seconds
    learner.ema.copy_to_module()
    engine.release(network)
    return trained
