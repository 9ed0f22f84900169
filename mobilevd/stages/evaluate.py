"""Evaluate: what every contender makes of the validation clips' first frames, against the real clips.

**Source** paper Sec. 4 (FVD, first frame given, 14 frames) · **Keeps** every figure has its interval and its protocol
(``tests/stages/test_evaluate.py``) · **Axes** latents N F C H W, pixels N F 3 H W.
"""

import resource
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from mobilevd.artifacts import StageRecord, seal
from mobilevd.evaluation import fingerprint, fvd, i3d, intervals, motion
from mobilevd.evaluation.fingerprint import Fingerprint
from mobilevd.params import Recipe
from mobilevd.stages import contenders, montage, sampling
from mobilevd.stages.contenders import Held
from mobilevd.stages.labels import COMPARED, LABELS, REAL, SHOWN
from mobilevd.stages.sampling import PREPROCESSING, Scores
from mobilevd.svd import base as bases
from mobilevd.svd.sampler import evaluations
from mobilevd.svd.scheduler import Schedule

STAGE = "evaluate"
MEASURED = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)  # the largest process counts


def run(recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path) -> StageRecord:
    """Sample every contender, score it, and lay the clips side by side. Figures are ``<contender>.<figure>``.

    FVD is measured against the real clips and, as ``fvd_to_reconstructed``, against the autoencoder's version of them.
    ``_low`` and ``_high`` end its 95 % interval; ``fvd_extrapolated`` is a line over 1/clips, and was not measured.
    """
    workdir, began = Path(workdir), time.time()
    held = contenders.held_out(recipe, inputs["prepare"])
    schedule, asked = bases.load(recipe.base).schedule, recipe.evaluate
    protocol, samples = _protocol(recipe, schedule, held), workdir / "samples"
    sampling.run(recipe, inputs, protocol, samples, (REAL, *LABELS))
    scores = {name: sampling.scores(samples, name, len(held)) for name in (REAL, *LABELS)}
    figures = _figures(scores) | {"evaluate.clips": float(len(held))}
    figures["teacher.evaluations"] = float(evaluations(schedule, asked.teacher_steps, asked.guidance_above))
    pictures = montage.clips({n: sampling.videos(samples, n, len(held)) for n in SHOWN}, recipe.clip.fps, workdir)
    sampling.forget_videos(samples)
    return StageRecord(
        stage=STAGE,
        recipe_digest=recipe.digest,
        data_md5=inputs["prepare"].data_md5,
        parents=contenders.judged(inputs),
        artifacts={"samples": seal(samples), "clips": seal(workdir / "clips")},
        figures=figures,
        facts={"preprocessing": PREPROCESSING, "features": "I3D, Kinetics-400, 400 logits"} | protocol.facts(),
        pictures=pictures,
        tables={"scores": _scores(figures, recipe), "clips": _apart(scores)},
        started_at=began,
        seconds=time.time() - began,
        peak_memory_mb=max(resource.getrusage(who).ru_maxrss for who in MEASURED) / 1024,
    )


def _figures(scores: dict[str, Scores]) -> dict[str, float]:
    real, near = scores[REAL], scores["autoencoder"].features
    figures = {"real.motion": real.figures["energy"].mean().item()}
    for name in LABELS:
        own = _distances(real.features, scores[name].features) | motion.summary(scores[name].figures, real.figures)
        own["fvd_to_reconstructed"] = fvd.frechet(near, scores[name].features)
        own["nan_share"] = scores[name].nan_share.mean().item()
        figures |= {f"{name}.{figure}": value for figure, value in own.items()}
    for name, other in COMPARED.items():
        sets = (real.features, scores[name].features, scores[other].features)
        found = intervals.difference(*sets, paired=True, generator=_generator())
        figures |= _bounded(f"{name}.fvd_minus_{other}", found)
    return figures


def _protocol(recipe: Recipe, schedule: Schedule, held: Held) -> Fingerprint:
    clip, asked = recipe.clip, recipe.evaluate
    left_out = {"clips"} if asked.guidance_above else {"clips", "guidance_above"}  # guided to the end, as ever
    sampler = asked.model_dump(mode="json", exclude=left_out) | asdict(schedule)
    return Fingerprint(
        real=fingerprint.digest_of_clips(held.video),
        extractor=i3d.CHECKPOINT_SHA256,
        sampler=fingerprint.digest(sampler),
        clips=len(held),
        frames=clip.frames,
        fps=clip.fps,
        width=clip.width,
        height=clip.height,
        resize=PREPROCESSING,
        crop="none",
        seed=recipe.seed,
        dtype="float32",
    )


def _distances(real: Tensor, made: Tensor) -> dict[str, float]:
    figures = {}
    for distance in ("fvd", "kvd"):
        found = intervals.interval(real, made, distance, paired=True, generator=_generator())
        figures |= _bounded(distance, found)
    if len(real) >= intervals.MIN_DRAWN:
        figures["fvd_extrapolated"] = intervals.curve(real, made, paired=True, generator=_generator()).extrapolated
    return figures


def _apart(scores: dict[str, Scores]) -> list[dict]:
    """Each clip's squared distance of features to its real one, the clip's number first."""
    real = scores[REAL].features
    apart = {name: (scores[name].features - real).square().sum(1).tolist() for name in SHOWN if name != REAL}
    return [{"clip": f"{k:02d}"} | {name: values[k] for name, values in apart.items()} for k in range(len(real))]


def _bounded(name: str, found: intervals.Interval) -> dict[str, float]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _generator() -> torch.Generator:
    """The same draws for all: an interval depends on nothing but the features."""
    return torch.Generator().manual_seed(0)


def _scores(figures: dict[str, float], recipe: Recipe) -> list[dict]:
    told = {"steps": recipe.evaluate.teacher_steps, "nfe": f"{figures['teacher.evaluations']:.0f}"}
    names = ("fvd", "fvd_low", "fvd_high", "fvd_to_reconstructed", "motion_ratio", "loop_score", "input_adherence")
    return [
        {"contender": label.format(**told)} | {name: figures[f"{key}.{name}"] for name in names}
        for key, label in LABELS.items()
    ]
