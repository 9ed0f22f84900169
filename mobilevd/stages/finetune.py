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
        log.append({"cross_attention": cross_attention.apply}[edit](unet))
        after = job.cheaper(unet, after, edit, weights_too=True)
    denoising = Denoising(unet, recipe, job.ids(), data.Clips(clips[0]), job.seed)
    curves = supervised.train(
        unet,
        denoising.loss,
        denoising.score,
        clips=clips,
        settings=settings,
        seed=job.seed,
        label=STAGE,
        checkpoints=job.checkpoints(),
    )
    values = [value for _, value in curves["val_loss"]]
    figures = {"val_loss_before": values[0], "val_loss_after": values[-1]}
    return job.record(unet, log, (before, after), curves, figures)


class Denoising:
    """The denoising loss on prepared clips: drawn at random for training, on a fixed grid for validation."""

    def __init__(self, unet: VideoUNet, recipe: Recipe, ids: Tensor, clips: data.Clips, seed: int):
        self._unet, self._settings, self._ids, self._seed = unet, recipe.finetune, ids, seed
        self._image_std = float(clips.batch(list(range(min(SPREAD_CLIPS, len(clips))))).image_latents.std())

    def loss(self, batch: data.Batch, generator: torch.Generator) -> Tensor:
        """The loss of one batch at random noise levels."""
        condition = self._condition(batch)
        draws = low_resolution.draw(batch.latents, condition, self._settings, self._image_std, generator)
        return low_resolution.loss(self._unet, batch.latents, draws)

    def score(self, clips: data.Clips) -> float:
        """The mean loss over validation clips, each at its own quantile of σ, with the clean condition."""
        count = min(VALIDATION_CLIPS, len(clips))
        sigmas, generator = low_resolution.quantiles(count, self._settings.sigma), seeds.generator(self._seed, "score")
        losses = []
        for index in range(count):
            clip = clips.batch([index])
            noise = torch.randn(clip.latents.shape, generator=generator).to(clip.latents)
            sigma = sigmas[index : index + 1].to(clip.latents)
            draws = low_resolution.Draws(sigma, noise, self._condition(clip))
            losses.append(float(low_resolution.loss(self._unet, clip.latents, draws)))
        return sum(losses) / count

    def _condition(self, batch: data.Batch) -> Condition:
        ids = self._ids.to(batch.latents).expand(len(batch.latents), -1)
        return Condition(batch.image_latents, batch.tokens, ids)
