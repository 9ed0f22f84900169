"""Distill: the finetuned network, its frame axis halved inside, becomes a one-step generator by adversarial training.

**Source** paper Table 1 rows "+ adversarial finetuning" and "+ temporal multiscaling", SF-V's recipe · **Keeps**
rec_loss_before/_after are one evaluation from its own start on validation clips (``tests/stages/test_distill.py``).
"""

from pathlib import Path

from mobilevd.artifacts import StageRecord
from mobilevd.method import spatial_multiscale, still_start, temporal_multiscale
from mobilevd.params import Recipe
from mobilevd.stages.job import Job
from mobilevd.svd import base as bases

STAGE = "distill"
EDITS = {"temporal_multiscale": temporal_multiscale.apply, "spatial_multiscale": spatial_multiscale.apply}


def run(recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path) -> StageRecord:
    """Apply the recipe's edits to the finetuned network, train it against the discriminator, leave the average.

    Inputs: prepare, finetune. Errors: EffectError when an edit saved no FLOPs; NonFiniteError on divergence.
    """
    job, settings = Job(STAGE, recipe, inputs, workdir), recipe.distill
    generator, log = job.network("finetune")
    before = after = job.measure(generator)
    for edit in settings.apply:
        log.append(EDITS[edit](generator, getattr(settings, edit).down))
        after = job.cheaper(generator, after, edit)
    if settings.still_start:
        scale = bases.scaling_factor(recipe.base)
        log.append(still_start.apply(generator, settings.still_start.sigma, scale))
    curves = job.train(generator, settings.adversarial)
    values = [value for _, value in curves["val_rec"]]
    return job.record(
        generator, log, (before, after), curves, {"rec_loss_before": values[0], "rec_loss_after": values[-1]}
    )
