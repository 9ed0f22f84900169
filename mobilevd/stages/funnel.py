"""Funnel: narrow the self-attention heads, train the funnels unmerged, merge them into their neighbours at the end.

**Source** paper Table 1 row "+ channel funneling" · **Keeps** the merged network's output is the unmerged one's
(``tests/stages/test_funnel.py``).
"""

import copy
from pathlib import Path

import torch

from mobilevd.artifacts import StageRecord
from mobilevd.errors import EffectError
from mobilevd.method import channel_funnel
from mobilevd.params import Recipe
from mobilevd.stages.job import Job
from mobilevd.svd.sampler import OneStep
from mobilevd.svd.unet import VideoUNet
from mobilevd.training import data, seeds

STAGE = "funnel"
BATCH = 2
TOLERANCE = 1.0e-3


def run(recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path) -> StageRecord:
    """Attach funnels to the pruned generator, train adversarially, merge exactly, and leave the merged network.

    Inputs: prepare, finetune, prune. Errors: EffectError when merging changed the output by more than 1e-3 of its
    largest value or no FLOPs were saved; NonFiniteError on divergence.
    """
    job, settings = Job(STAGE, recipe, inputs, workdir), recipe.funnel
    generator, log = job.network("prune")
    before = job.measure(generator)
    random = seeds.generator(job.seed, "funnels")
    channel_funnel.attach(generator, settings.fun_factor, settings.where, settings.init, random)
    curves = job.train(generator, settings.adversarial)
    merged = copy.deepcopy(generator)
    log.append(channel_funnel.merge(merged))
    error = merge_error(job, generator, merged)
    after = job.cheaper(merged, before, STAGE) if settings.fun_factor < 1.0 else before
    values = [value for _, value in curves["val_rec"]]
    figures = {"merge_error": error, "rec_loss_before": values[0], "rec_loss_after": values[-1]}
    return job.record(merged, log, (before, after), curves, figures)


@torch.no_grad()
def merge_error(job: Job, unmerged: VideoUNet, merged: VideoUNet) -> float:
    """Largest absolute difference of the two one-step outputs on a validation batch. Errors: EffectError above 1e-3."""
    clips = data.Clips(job.clips()[1], next(merged.parameters()).device)
    batch = clips.batch(list(range(min(BATCH, len(clips)))))
    noise = torch.randn(batch.latents.shape, generator=seeds.generator(job.seed, "merge")).to(batch.latents)
    condition = (batch.image_latents, batch.tokens, job.ids().to(noise).expand(len(noise), -1))
    outputs = [OneStep(unet).eval()(noise, *condition) for unet in (unmerged, merged)]
    error, largest = float((outputs[0] - outputs[1]).abs().max()), float(outputs[0].abs().max())
    if not error <= TOLERANCE * max(1.0, largest):
        raise EffectError(
            "Merging the funnels changed the network's output",
            got=f"{error:.3g}, with outputs up to {largest:.3g}",
            allowed=f"at most {TOLERANCE:g} of the largest output",
            where="mobilevd/method/channel_funnel.py",
        )
    return error
