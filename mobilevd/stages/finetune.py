"""Finetune: the base learns the clip's size by denoising, with optimized cross-attention.

**Source** paper Sec. 3.2, Table 1 rows 2 and 3 · **Keeps** the cross-attention edit is made first and is exact; the
figures val_loss_before/_after use one fixed grid of σ and noise (``tests/stages/test_finetune.py``).
"""

from pathlib import Path

import torch
from torch import Tensor

from mobilevd.artifacts import StageRecord
from mobilevd.method import cross_attention, low_resolution
from mobilevd.params import Recipe
from mobilevd.stages.job import Job
from mobilevd.svd import base
from mobilevd.svd.edm import Condition
from mobilevd.svd.unet import VideoUNet
from mobilevd.training import data, seeds, supervised

STAGE = "finetune"
EDITS = {"cross_attention": cross_attention.apply}
VALIDATION_CLIPS = 16
SPREAD_CLIPS = 64


def run(recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path) -> StageRecord:
    """Apply the recipe's edits to the base, train, and leave the averaged network. Inputs: prepare.

    Errors: EffectError when an edit saved no FLOPs or no parameters; NonFiniteError when the training diverges.
    """
    job, settings = Job(STAGE, recipe, inputs, workdir), recipe.finetune
    start = base.load(recipe.base)
    unet, clips = start.unet(), job.clips()
    job.parents["base"] = start.digest
    before = after = job.measure(unet)
    log = []
    for edit in settings.apply:
        log.append(EDITS[edit](unet))
        after = job.cheaper(unet, after, edit, weights_too=True)
    denoising = Denoising(unet, recipe, data.Clips(clips[0]), job)
    lesson = supervised.Lesson(
        unet,
        denoising.loss,
        denoising.score,
        clips,
        (job.training_ids(), job.ids()),
        settings,
        job.seed,
        STAGE,
        recipe.training,
        job.checkpoints(),
        job.live,
    )
    curves = job.follow(supervised.train(lesson))
    values = [value for _, value in curves["val_loss"]]
    figures = {"val_loss_before": values[0], "val_loss_after": values[-1]}
    return job.record(unet, log, (before, after), curves, figures)


class Denoising:
    """The denoising loss on prepared clips: drawn at random for training, on a fixed grid for validation."""

    def __init__(self, unet: VideoUNet, recipe: Recipe, clips: data.Clips, job: Job):
        self._unet, self._settings, self._seed, self._show = unet, recipe.finetune, job.seed, job.samples()
        self._image_std = float(clips.batch(list(range(min(SPREAD_CLIPS, len(clips))))).image_latents.std())

    def loss(self, batch: data.Batch, generators: list[torch.Generator]) -> Tensor:
        """The loss of one batch at random noise levels."""
        draws = []
        for index, generator in enumerate(generators):
            x0, image, token, ids = (t[index : index + 1] for t in batch)
            condition = Condition(image, token, ids)
            draws.append(low_resolution.draw(x0, condition, self._settings, self._image_std, generator))
        return low_resolution.loss(self._unet, batch.latents, data.stacked(draws))

    def score(self, clips: data.Clips, step: int) -> dict[str, float]:
        """The mean loss over validation clips, each at its own quantile of σ, with the clean condition.

        The first clips, which are shown, are at the middle of σ's range: an estimate is neither given away nor a guess.
        """
        count = min(VALIDATION_CLIPS, len(clips))
        sigmas = low_resolution.quantiles(count, self._settings.sigma).roll(-(count // 2))
        generator, device = seeds.generator(self._seed, "score"), next(self._unet.parameters()).device
        losses, estimates = [], []
        for index in range(count):
            x0, *condition = clips.batch([index], device)
            noise = torch.randn(x0.shape, generator=generator).to(x0)
            sigma = sigmas[index : index + 1].to(x0)
            draws = low_resolution.Draws(sigma, noise, Condition(*condition))
            estimates.append(low_resolution.estimate(self._unet, x0, draws).float())
            losses.append(float(low_resolution.weighted(estimates[-1], x0, sigma)))
        return {"val_loss": sum(losses) / count, **self._show(step, torch.cat(estimates))}
