"""A model on UCF-101, by the papers' protocol: the first frame of each listed clip in, its frames against the clip's.

**Source** paper Sec. 4; SF-V (arXiv 2406.04324): everything to 320x240 before I3D. **Keeps** a clip's result depends on
its line and the seed alone; a killed run goes on (``tests/stages/test_ucf101.py``). **Axes** clip F 3 H W.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from mobilevd.artifacts import MANIFEST, file_sha256, write_json
from mobilevd.errors import MobileVDError
from mobilevd.evaluation import fingerprint, i3d, intervals, motion, report
from mobilevd.evaluation.fingerprint import Fingerprint
from mobilevd.evaluation.report import Figure, Report
from mobilevd.progress import track
from mobilevd.settings import Clip, Evaluate
from mobilevd.stages import spread
from mobilevd.svd import inference
from mobilevd.video import ucf101
from mobilevd.video.ucf101 import Manifest

JOB = "job.json"
PREPROCESSING: i3d.Preprocessing = "sf-v"
Make = Callable[[Tensor, int], Tensor]  # first frame 3 H W, seed → frames F 3 H W


@dataclass(frozen=True)
class Job:
    """What is scored: a manifest, where the videos lie, a model (bundle, or base to sample with many steps), a seed,
    and the noise level down to which a base is guided (0: to the end, as SVD)."""

    manifest: str
    data: str
    model: str
    teacher: bool
    seed: int
    guidance_above: float = 0.0


def run(job: Job, folder: Path) -> Report:
    """Generate and score every clip of the manifest under ``folder``, as far as it is missing, and write report.json.

    Errors: IntegrityError for a video or a model that is not the one listed; MobileVDError for clips of another size.
    """
    folder, manifest = Path(folder).resolve(), ucf101.read(Path(job.manifest))
    if len(manifest.clips) < 2:
        raise MobileVDError(
            "Too few clips to score", got=len(manifest.clips), allowed="two or more", where=job.manifest
        )
    _open(job, manifest, folder)
    files = [_place(folder, k) for k in range(len(manifest.clips))]
    count = min(spread.processes(_network_bytes(job)), len(files))
    i3d.load()
    arriving = work(folder) if count == 1 else spread.run("mobilevd.stages.ucf101", folder, files, count)
    for _ in track(arriving, len(files), "clips"):
        pass
    made = _report(job, manifest, [load_file(path) for path in files])
    made.save(folder / "report.json")
    return made


def work(folder: Path, share: spread.Share = (0, 1), words: Sequence[str] = ()) -> Iterator[Path]:
    """Every ``of``-th clip from number ``share`` on that is not there yet; yields each file once it is."""
    job = Job(**json.loads((folder / JOB).read_text(encoding="utf-8"))["job"])
    device = inference.device_for(share[0])
    manifest, make, net = ucf101.read(Path(job.manifest)), None, i3d.load().to(device)
    for k in range(share[0], len(manifest.clips), share[1]):
        path = _place(folder, k)
        if not path.exists():
            make = make or _maker(job, manifest.clip, device)
            real = ucf101.frames(Path(job.data), manifest, k)
            made = make(_straight(real[0], manifest.clip), job.seed * 100_003 + k)
            sides = {"real": _seen(real[None], net), "made": _seen(made[None], net)}
            spread.save(path, {f"{side}.{name}": value for side, seen in sides.items() for name, value in seen.items()})
        yield path


def _seen(video: Tensor, net: i3d.I3D) -> dict[str, Tensor]:
    """Features and figures of one clip, and its first frame, all at SF-V's 320x240."""
    small = (
        F.interpolate(video[0].float(), size=(240, 320), mode="bilinear", antialias=True).round().to(torch.uint8)[None]
    )
    return {"features": i3d.features(video, net, PREPROCESSING), "first": small[:, 0]} | motion.per_clip(small)


def _straight(frame: Tensor, clip: Clip) -> Tensor:
    """To the model's size without a crop, for what comes out goes back to 320x240 the same way."""
    picture = Image.fromarray(frame.permute(1, 2, 0).numpy()).resize(
        (clip.width, clip.height), Image.Resampling.BICUBIC
    )
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _maker(job: Job, clip: Clip, device: torch.device) -> Make:
    if job.teacher:
        return _teacher(job.model, clip, device, job.guidance_above)
    return _student(Path(job.model), clip, device)


def _student(folder: Path, clip: Clip, device: torch.device) -> Make:
    from mobilevd.pipeline import MobileVDPipeline

    pipeline = MobileVDPipeline.from_pretrained(folder).to(device)
    mine, asked = ((c.frames, c.width, c.height) for c in (pipeline.clip, clip))
    if mine != asked:
        raise MobileVDError("The model makes clips of another size", got=mine, allowed=str(asked), where="the manifest")
    return lambda frame, seed: pipeline(frame, seed=seed, fps=clip.fps).frames


def _teacher(name: str, clip: Clip, device: torch.device, guidance_above: float = 0.0) -> Make:
    """The base as it is, over its own noise levels, with SVD's steps and guidance, down to ``guidance_above``."""
    from mobilevd.svd import autoencoder, base, conditioning, sampler

    loaded, settings = base.load(name).to(device), Evaluate()
    loaded.check_clip(clip)
    unet, side = inference.arrange(loaded.unet()).to(device), autoencoder.downscale(loaded.vae)
    shape = (clip.frames, loaded.vae.config.latent_channels, clip.height // side, clip.width // side)
    ids = conditioning.added_ids(1, clip.fps, settings.motion_bucket, settings.augmentation_sigma).to(device)
    options = {"steps": settings.teacher_steps, "guidance": settings.guidance, "guidance_above": guidance_above}

    @torch.no_grad()
    def make(frame: Tensor, seed: int) -> Tensor:
        image = frame[None].to(device).float() / 255
        given = autoencoder.encode(loaded.vae, image), conditioning.image_tokens(loaded.image_encoder, image), ids
        latents = sampler.sample(
            unet, *given, sampler.clip_noise([seed], shape).to(device), schedule=loaded.schedule, **options
        )
        return loaded.decode(latents)[0].mul(255).round().to(torch.uint8).cpu()

    return make


def _report(job: Job, manifest: Manifest, rows: list[dict[str, Tensor]]) -> Report:
    real, made = (_joined(rows, side) for side in ("real.", "made."))
    features, figures = (real.pop("features"), made.pop("features")), {}
    seeded = partial(torch.Generator().manual_seed, 0)
    for name in ("fvd", "kvd"):
        found = intervals.interval(*features, name, paired=True, generator=seeded())
        figures[name] = Figure(value=found.value, unit="", low=found.low, high=found.high)
    if len(rows) >= intervals.MIN_DRAWN:
        line = intervals.curve(*features, paired=True, generator=seeded())
        figures["fvd_extrapolated"] = Figure(value=line.extrapolated, unit="", measured=False)
    asked, firsts = real.pop("first"), made.pop("first")
    made["input_adherence"] = torch.stack([motion.adherence(first, asked, k) for k, first in enumerate(firsts)])
    figures |= {name: Figure(value=value, unit="") for name, value in motion.summary(made, real).items()}
    return report.make(_protocol(job, manifest), figures, _model_digest(job))


def _joined(rows: list[dict[str, Tensor]], side: str) -> dict[str, Tensor]:
    names = [name for name in rows[0] if name.startswith(side)]
    return {name.removeprefix(side): torch.cat([row[name] for row in rows]) for name in names}


def _protocol(job: Job, manifest: Manifest) -> Fingerprint:
    """Steps and guidance belong to the model that is scored, and are no part of it."""
    told = Evaluate()
    return Fingerprint(
        real=fingerprint.digest([manifest.split, *(asdict(line) for line in manifest.clips)]),
        extractor=i3d.CHECKPOINT_SHA256,
        sampler=fingerprint.digest({"motion_bucket": told.motion_bucket, "sigma": told.augmentation_sigma}),
        clips=len(manifest.clips),
        **manifest.clip.model_dump(),
        resize=PREPROCESSING,
        crop="none",
        seed=job.seed,
        dtype="float32",
    )


def _open(job: Job, manifest: Manifest, folder: Path) -> None:
    """Clips of another job are removed; where the videos lie is no part of it."""
    told = asdict(job) | {"manifest": fingerprint.digest(asdict(manifest)), "data": "", "model": _model_digest(job)}
    told = {name: value for name, value in told.items() if name != "guidance_above" or value}
    path, digest = folder / JOB, fingerprint.digest(told)
    if path.is_file() and json.loads(path.read_text(encoding="utf-8"))["digest"] != digest:
        shutil.rmtree(folder)
    whole = asdict(job) | {"manifest": str(Path(job.manifest).resolve()), "data": str(Path(job.data).resolve())}
    write_json(path, {"digest": digest, "job": whole})


def _model_digest(job: Job) -> str:
    if job.teacher:
        from mobilevd.svd import base

        return base.load(job.model).digest
    if not (sealed := Path(job.model) / MANIFEST).is_file():
        raise MobileVDError("This folder is no bundle", got=job.model, allowed=f"a folder with {MANIFEST}")
    return file_sha256(sealed)


def _place(folder: Path, k: int) -> Path:
    return folder / "clips" / f"{k:05d}.safetensors"


def _network_bytes(job: Job) -> int:
    return max((path.stat().st_size for path in Path(job.model).glob("**/*.safetensors")), default=0)


if __name__ == "__main__":
    spread.serve(work, sys.argv[1:])
