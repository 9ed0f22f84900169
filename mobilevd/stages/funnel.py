"""Funnel: narrow attentions and convolutions, train the funnels unmerged, merge them into their neighbours at the end.

**Source** paper Table 1 row "+ channel funneling" and its width ablation · **Keeps** the merged network's output is the
unmerged one's (``tests/stages/test_funnel.py``).
"""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from mobilevd.artifacts import StageRecord
from mobilevd.errors import EffectError
from mobilevd.method import channel_funnel, conv_funnel, data_aware, truncated_svd
from mobilevd.params import Recipe
from mobilevd.settings import Funnel
from mobilevd.stages.job import Job
from mobilevd.svd.affine_pairs import self_attentions
from mobilevd.svd.edm import denoise, over_frames
from mobilevd.svd.sampler import OneStep
from mobilevd.svd.unet import VideoUNet
from mobilevd.training import data, seeds
from mobilevd.training.health import Curves

STAGE = "funnel"
BATCH = 2
TOLERANCE = 1.0e-3


def run(recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path) -> StageRecord:
    """Narrow the pruned generator as the recipe says, train adversarially, and leave the merged network.

    Inputs: prepare, finetune, prune. Errors: EffectError when merging changed the output by more than 1e-3 of its
    largest value, or FLOPs or parameters were not saved; SurgeryError for a layer that cannot be rewritten;
    NonFiniteError on divergence.
    """
    job, settings = Job(STAGE, recipe, inputs, workdir), recipe.funnel
    generator, log = job.network("prune")
    before = job.measure(generator)
    narrow = _truncated if settings.kind == "truncated" else _funneled
    network, entries, curves, figures = narrow(job, generator, settings)
    after = job.cheaper(network, before, STAGE, weights_too=True) if saves(settings) else job.measure(network)
    values = [value for _, value in curves["val_rec"]]
    figures |= {"rec_loss_before": values[0], "rec_loss_after": values[-1]}
    return job.record(network, [*log, *entries], (before, after), curves, figures)


Narrowed = tuple[VideoUNet, list[dict], Curves, dict[str, float]]  # network, log entries, curves, figures


def _truncated(job: Job, generator: VideoUNet, settings: Funnel) -> Narrowed:
    entry = truncated_svd.apply(generator, settings.fun_factor, settings.where)
    return generator, [entry], job.train(generator, settings.adversarial), {}


def _funneled(job: Job, generator: VideoUNet, settings: Funnel) -> Narrowed:
    attach(job, generator, settings)
    if settings.merge == "before":
        generator, entries, error = _merge(job, generator, settings)
        curves = job.train(generator, settings.adversarial)
    else:
        curves = job.train(generator, settings.adversarial)
        generator, entries, error = _merge(job, generator, settings)
    return generator, entries, curves, {"merge_error": error}


def attach(job: Job, generator: VideoUNet, settings: Funnel) -> None:
    """Put the funnels in that the recipe asks for, at their start."""
    random, r, where = seeds.generator(job.seed, "funnels"), settings.fun_factor, settings.where
    if settings.init != "data_aware":
        place(generator, settings, random)
        return
    seen = data_aware.watch(self_attentions(generator, where), _evaluations(job, generator, settings), random)
    plan = data_aware.pairs(seen), data_aware.ranks(seen, r)
    channel_funnel.attach(generator, r, where, "csi", random, *plan)


def place(generator: VideoUNet, settings: Funnel, random: torch.Generator | None = None) -> None:
    """The same where no clip is looked at: each start but the data-aware one."""
    how = (settings.fun_factor, settings.where, settings.init, random)
    if settings.layers != "convolution":
        channel_funnel.attach(generator, *how)
    if settings.layers != "attention":
        conv_funnel.attach(generator, *how)


def _merge(job: Job, generator: VideoUNet, settings: Funnel) -> tuple[VideoUNet, list[dict], float]:
    merged = copy.deepcopy(generator)
    return merged, merge(merged, settings), merge_error(job, generator, merged)


def merge(generator: VideoUNet, settings: Funnel) -> list[dict]:
    """Merge the funnels that the recipe asked for, in place; the log entries."""
    entries = [channel_funnel.merge(generator)] if settings.layers != "convolution" else []
    return entries + ([conv_funnel.merge(generator)] if settings.layers != "attention" else [])


def saves(settings: Funnel) -> bool:
    """Whether fewer FLOPs are declared: two thin matrices are cheaper than a square one below half its rank only."""
    return settings.fun_factor < (0.5 if settings.kind == "truncated" else 1.0)


def _evaluations(job: Job, generator: VideoUNet, settings: Funnel) -> Iterator[Callable[[], Tensor]]:
    """One evaluation of every calibration clip at every σ that the generator is trained on."""
    clips, device = data.Clips(job.clips()[0]), next(generator.parameters()).device
    random = seeds.generator(job.seed, "calibration")
    for index in range(min(settings.calibration_clips, len(clips))):
        clip = clips.batch([index], device)
        condition = (clip.image_latents, clip.tokens, job.ids().to(clip.latents))
        for level in settings.adversarial.sigmas:
            sigma = torch.full((1,), level).to(clip.latents)
            noisy = clip.latents + over_frames(sigma) * torch.randn(clip.latents.shape, generator=random).to(sigma)
            yield lambda args=(noisy, sigma, *condition): denoise(generator, *args)


def _in_double(unet: VideoUNet, given: tuple[Tensor, ...]) -> Tensor:
    """An evaluation of every clip in float64; the weights are where and as they were afterwards, to the bit.

    Clip by clip on the processor, whose attention never holds a matrix of positions x positions: a GPU's does in
    float64, 48 GB of it for each block of SVD's outermost level at 1024x576.
    """
    device = next(unet.parameters()).device
    try:
        step = OneStep(unet.to("cpu", torch.float64)).eval()
        clips = zip(*(tensor.double().cpu().split(1) for tensor in given), strict=True)
        return torch.cat([step(*clip) for clip in clips])
    finally:
        unet.to(device, torch.float32)


@torch.no_grad()
def merge_error(job: Job, unmerged: VideoUNet, merged: VideoUNet) -> float:
    """Largest absolute difference of the two one-step outputs on a validation batch, computed in double precision.

    In single precision a network that enlarges rounding may differ from itself by more than the merge does.
    Errors: EffectError above 1e-3.
    """
    clips = data.Clips(job.clips()[1])
    batch = clips.batch(list(range(min(BATCH, len(clips)))), next(merged.parameters()).device)
    noise = torch.randn(batch.latents.shape, generator=seeds.generator(job.seed, "merge")).to(batch.latents)
    condition = (batch.image_latents, batch.tokens, job.ids().to(noise).expand(len(noise), -1))
    outputs = [_in_double(unet, (noise, *condition)) for unet in (unmerged, merged)]
    error, largest = float((outputs[0] - outputs[1]).abs().max()), float(outputs[0].abs().max())
    if not error <= TOLERANCE * max(1.0, largest):
        raise EffectError(
            "Merging the funnels changed the network's output",
            got=f"{error:.3g}, with outputs up to {largest:.3g}",
            allowed=f"at most {TOLERANCE:g} of the largest output",
            where="mobilevd/method/channel_funnel.py, conv_funnel.py",
        )
    return error
