"""Evaluate: what every contender makes of the validation clips' first frames, against the real clips.

**Source** paper Sec. 4 (FVD, first frame given, 14 frames) · **Keeps** one seed per clip for all contenders, so that
they differ by their network alone (``tests/stages/test_evaluate.py``) · **Axes** latents N F C H W, pixels N F 3 H W.
"""

import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mobilevd.artifacts import StageRecord, seal, verify
from mobilevd.evaluation import fingerprint, fvd, i3d, intervals, motion
from mobilevd.evaluation.fingerprint import Fingerprint
from mobilevd.method import surgery
from mobilevd.params import Recipe
from mobilevd.progress import track
from mobilevd.stages import montage
from mobilevd.stages.job import NETWORK
from mobilevd.svd import base as bases
from mobilevd.svd.conditioning import added_ids
from mobilevd.svd.sampler import OneStep, clip_noise, sample
from mobilevd.svd.scheduler import Schedule

STAGE = "evaluate"
PREPROCESSING = "tf-reference"
COMPARED = {"student": "teacher", "quantized": "student"}  # told apart by clip, the first less the second
SHOWN = ("real", "teacher", "student", "quantized")
LABELS = {
    "autoencoder": "the autoencoder alone",
    "frozen": "the first frame, frozen",
    "teacher": "teacher, {steps} steps ({nfe} evaluations)",
    "teacher_one_step": "teacher forced to one step",
    "distilled": "student after distillation, 1 evaluation",
    "pruned": "student after pruning, 1 evaluation",
    "student": "student after funnels, 1 evaluation",
    "quantized": "student quantized, 1 evaluation",
}


@dataclass(frozen=True)
class Held:
    """The held-out clips: their numbers among the prepared ones, pixels, latents and conditions in one order."""

    numbers: list[int]
    video: Tensor
    latents: Tensor
    image_latents: Tensor
    tokens: Tensor

    def __len__(self) -> int:
        return len(self.video)


def run(recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path) -> StageRecord:
    """Sample every contender, score it, and lay the clips side by side. Figures are ``<contender>.<figure>``.

    FVD is measured against the real clips and, as ``fvd_to_reconstructed``, against the autoencoder's version of them.
    ``_low`` and ``_high`` end its 95 % interval; ``fvd_extrapolated`` is a line over 1/clips, and was not measured.
    """
    workdir, began = Path(workdir), time.time()
    held = _held_out(recipe, inputs["prepare"])
    base = bases.load(recipe.base)
    makers = _contenders(recipe, base.schedule, inputs, held)
    latents = {name: _cached(workdir / "samples" / f"{name}.safetensors", make) for name, make in makers.items()}
    videos = {"real": held.video} | {name: _decoded(base, made, name) for name, made in latents.items()}
    protocol = _protocol(recipe, base.schedule, held)
    figures = _figures(videos, protocol) | {
        f"{name}.nan_share": 1 - made.isfinite().float().mean().item() for name, made in latents.items()
    }
    pictures = montage.clips({name: videos[name] for name in SHOWN}, recipe.clip.fps, workdir)
    return StageRecord(
        stage=STAGE,
        recipe_digest=recipe.digest,
        data_md5=inputs["prepare"].data_md5,
        parents={name: inputs[name].artifacts[NETWORK].sha256 for name in ("finetune", "funnel")}
        | {"quantize": inputs["quantize"].artifacts["onnx"].sha256},
        artifacts={"samples": seal(workdir / "samples"), "clips": seal(workdir / "clips")},
        figures=figures | {"evaluate.clips": float(len(held))},
        facts={"preprocessing": PREPROCESSING, "features": "I3D, Kinetics-400, 400 logits"} | protocol.facts(),
        pictures=pictures,
        tables={"scores": _scores(figures, recipe)},
        started_at=began,
        seconds=time.time() - began,
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def _held_out(recipe: Recipe, prepared: StageRecord) -> Held:
    for name in ("clips", "latents"):
        verify(prepared.artifacts[name].path, prepared.artifacts[name].sha256)
    encoded = load_file(prepared.artifacts["latents"].path / "validation.safetensors")
    video = load_file(prepared.artifacts["clips"].path / "validation.safetensors")["video"]
    picked = torch.linspace(0, len(video) - 1, min(recipe.evaluate.clips, len(video))).round().long()
    parts = (encoded[name][picked].float() for name in ("latents", "image_latents", "tokens"))
    return Held(picked.tolist(), video[picked], *parts)


def _contenders(
    recipe: Recipe, schedule: Schedule, inputs: dict[str, StageRecord], held: Held
) -> dict[str, Callable[[], Tensor]]:
    """Name → how its latents are made; nothing is computed before it is called."""
    settings = recipe.evaluate
    ids = added_ids(1, recipe.clip.fps, settings.motion_bucket, settings.augmentation_sigma)
    noise = clip_noise([recipe.seed * 100_003 + number for number in held.numbers], tuple(held.latents.shape[1:]))

    def teacher() -> Tensor:
        unet = _unet(inputs["finetune"])
        options = {"steps": settings.teacher_steps, "guidance": settings.guidance, "schedule": schedule}
        return _each(lambda latents, token, z: sample(unet, latents, token, ids, z, **options), held, noise, "teacher")

    def one_step(stage: str, name: str) -> Callable[[], Tensor]:
        def make() -> Tensor:
            net = OneStep(_unet(inputs[stage]))
            return _each(lambda latents, token, z: net(z, latents, token, ids), held, noise, name)

        return make

    def quantized() -> Tensor:
        from mobilevd.device.runtime import OnnxOneStep

        folder = inputs["quantize"].artifacts["onnx"]
        verify(folder.path, folder.sha256)
        net = OnnxOneStep(folder.path / "quantized.onnx")
        return _each(lambda latents, token, z: net(z, latents, token, ids), held, noise, "quantized")

    return {
        "autoencoder": lambda: held.latents,
        "frozen": lambda: held.latents[:, :1].expand_as(held.latents),
        "teacher": teacher,
        "teacher_one_step": one_step("finetune", "teacher_one_step"),
        "distilled": one_step("distill", "distilled"),
        "pruned": one_step("prune", "pruned"),
        "student": one_step("funnel", "student"),
        "quantized": quantized,
    }


@torch.no_grad()
def _each(make: Callable[[Tensor, Tensor, Tensor], Tensor], held: Held, noise: Tensor, name: str) -> Tensor:
    """Clip by clip, so that a clip's result depends on nothing but itself."""
    rows = zip(held.image_latents.split(1), held.tokens.split(1), noise.split(1), strict=True)
    return torch.cat([make(*row) for row in track(rows, len(held), f"sampling {name}")])


def _unet(record: StageRecord) -> torch.nn.Module:
    folder = record.artifacts[NETWORK]
    verify(folder.path, folder.sha256)
    return surgery.load(folder.path)[0].eval()


def _cached(path: Path, make: Callable[[], Tensor]) -> Tensor:
    """Samples once made are reused when the stage is run again in the same folder."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".part")
        save_file({"latents": make().contiguous()}, aside)
        aside.replace(path)
    return load_file(path)["latents"]


def _decoded(base: bases.Base, latents: Tensor, name: str) -> Tensor:
    clips = track(latents.split(1), len(latents), f"decoding {name}")
    return torch.cat([base.decode(clip).mul(255).round().to(torch.uint8) for clip in clips])


def _protocol(recipe: Recipe, schedule: Schedule, held: Held) -> Fingerprint:
    clip, sampler = recipe.clip, recipe.evaluate.model_dump(mode="json", exclude={"clips"}) | asdict(schedule)
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


def _figures(videos: dict[str, Tensor], protocol: Fingerprint) -> dict[str, float]:
    net = i3d.load()
    seen = {name: i3d.features(videos[name], net, progress=f"features {name}") for name in LABELS}
    real = fingerprint.features(protocol, lambda: i3d.features(videos["real"], net, progress="features real"))
    figures = {"real.motion": motion.energy(videos["real"]).mean().item()}
    for name in LABELS:
        own = _distances(real, seen[name]) | motion.figures(videos[name], videos["real"])
        own["fvd_to_reconstructed"] = fvd.frechet(seen["autoencoder"], seen[name])
        figures |= {f"{name}.{figure}": value for figure, value in own.items()}
    for name, other in COMPARED.items():
        found = intervals.difference(real, seen[name], seen[other], paired=True, generator=_generator())
        figures |= _bounded(f"{name}.fvd_minus_{other}", found)
    return figures


def _distances(real: Tensor, made: Tensor) -> dict[str, float]:
    figures = {}
    for distance in ("fvd", "kvd"):
        found = intervals.interval(real, made, distance, paired=True, generator=_generator())
        figures |= _bounded(distance, found)
    if len(real) >= intervals.MIN_DRAWN:
        figures["fvd_extrapolated"] = intervals.curve(real, made, paired=True, generator=_generator()).extrapolated
    return figures


def _bounded(name: str, found: intervals.Interval) -> dict[str, float]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _generator() -> torch.Generator:
    """The same draws for all: an interval depends on nothing but the features."""
    return torch.Generator().manual_seed(0)


def _scores(figures: dict[str, float], recipe: Recipe) -> list[dict]:
    steps = recipe.evaluate.teacher_steps
    names = ("fvd", "fvd_low", "fvd_high", "fvd_to_reconstructed", "motion_ratio", "loop_score", "input_adherence")
    return [
        {"contender": label.format(steps=steps, nfe=2 * steps)} | {name: figures[f"{key}.{name}"] for name in names}
        for key, label in LABELS.items()
    ]
