"""Who is evaluated: every network of a run, and references that tell what its figures are worth, on one set of clips.

**Source** paper Sec. 4 (first frame given) · **Keeps** one seed per clip for all, so that contenders differ by their
network alone (``tests/stages/test_evaluate.py``) · **Axes** latents F C H W, pixels F 3 H W.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mobilevd.artifacts import StageRecord, verify
from mobilevd.evaluation.motion import shuffled
from mobilevd.method import surgery
from mobilevd.params import Recipe
from mobilevd.stages.job import NETWORK
from mobilevd.svd.conditioning import added_ids
from mobilevd.svd.inference import arrange
from mobilevd.svd.sampler import OneStep, clip_noise, sample
from mobilevd.svd.scheduler import Schedule
from mobilevd.training import data
from mobilevd.video import store

ONE_STEP = {"teacher_one_step": "finetune", "distilled": "distill", "pruned": "prune", "student": "funnel"}
CPU = torch.device("cpu")
HELD_OUT = "validation.safetensors"
Make = Callable[[int], Tensor]  # number of a held-out clip → its latents 1 F C H W


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


def held_out(recipe: Recipe, prepared: StageRecord) -> Held:
    """The clips to evaluate on, spread evenly over the validation side. Errors: IntegrityError when they changed."""
    pixels, latents = (prepared.artifacts[name].part(HELD_OUT) for name in ("clips", "latents"))
    encoded = data.Clips(latents)
    count = len(encoded)
    picked = torch.linspace(0, count - 1, min(recipe.evaluate.clips, count)).round().long().tolist()
    video = torch.stack([clip for index, clip in enumerate(store.clips(pixels)) if index in set(picked)])
    batch = encoded.batch(picked)
    return Held(picked, video, batch.latents, batch.image_latents, batch.tokens)


def asked(recipe: Recipe, held: Held, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What every network is given for clip ``k``: noise of the clip's own seed, image latents, token, ids."""
    at = recipe.evaluate
    noise = clip_noise([recipe.seed * 100_003 + held.numbers[k]], tuple(held.latents.shape[1:]))
    ids = added_ids(1, recipe.clip.fps, at.motion_bucket, at.augmentation_sigma)
    return noise, held.image_latents[k : k + 1], held.tokens[k : k + 1], ids


def makers(
    recipe: Recipe, schedule: Schedule, inputs: dict[str, StageRecord], held: Held, device: torch.device = CPU
) -> dict[str, Callable[[], Make]]:
    """Name → what loads the contender and gives the function that makes one clip; nothing is read before.

    Networks run on ``device``, the quantized graph on the CPU; noise is drawn, and latents come back, on the CPU.
    """
    settings, shape = recipe.evaluate, held.latents.shape[1:]

    def teacher() -> Make:
        """The finetuned network, in many steps with guidance."""
        told = {"guidance": settings.guidance, "guidance_above": settings.guidance_above}
        options = {"steps": settings.teacher_steps, "schedule": schedule} | told
        unet = _unet(inputs["finetune"], device)

        def make(k: int) -> Tensor:
            noise, image, token, ids = (given.to(device) for given in asked(recipe, held, k))
            return sample(unet, image, token, ids, noise, **options).cpu()

        return make

    def once(load: Callable[[], Callable], on: torch.device) -> Make:
        """A network in one evaluation from its start."""
        net = load()

        @torch.no_grad()
        def make(k: int) -> Tensor:
            return net(*(given.to(on) for given in asked(recipe, held, k))).cpu()

        return make

    loads = {name: (partial(_one_step, inputs[stage], device), device) for name, stage in ONE_STEP.items()}
    loads["quantized"] = (partial(_quantized, inputs["quantize"]), CPU)
    return {
        "autoencoder": lambda: lambda k: held.latents[k : k + 1],
        "frozen": lambda: lambda k: held.latents[k : k + 1, :1].expand(1, *shape),
        "shuffled": lambda: lambda k: held.latents[k : k + 1, shuffled(shape[0], held.numbers[k])],
        "teacher": teacher,
    } | {name: partial(once, *load) for name, load in loads.items()}


def judged(inputs: dict[str, StageRecord]) -> dict[str, str]:
    """Digest by stage of what the figures are about."""
    networks = {name: inputs[name].artifacts[NETWORK].sha256 for name in ("finetune", "funnel")}
    return networks | {"quantize": inputs["quantize"].artifacts["onnx"].sha256}


def _unet(record: StageRecord, device: torch.device) -> torch.nn.Module:
    folder = record.artifacts[NETWORK]
    verify(folder.path, folder.sha256)
    return arrange(surgery.load(folder.path)[0]).to(device)


def _one_step(record: StageRecord, device: torch.device) -> Callable:
    return OneStep(_unet(record, device))


def _quantized(record: StageRecord) -> Callable:
    from mobilevd.device.runtime import OnnxOneStep

    folder = record.artifacts["onnx"]
    verify(folder.path, folder.sha256)
    return OnnxOneStep(folder.path / "quantized.onnx", threads=torch.get_num_threads())
