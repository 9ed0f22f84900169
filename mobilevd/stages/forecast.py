"""What a recipe will ask for before anything is run: hours, GPU-hours, memory and disk of every stage.

**Keeps** operations are counted on the recipe's own network, by the factors that the stages' code has
(``tests/stages/test_forecast.py``); what is assumed is said beside the figures.
"""

import time
from dataclasses import dataclass

import torch

from mobilevd.evaluation.activations import kept_bytes
from mobilevd.evaluation.cost import count
from mobilevd.method import surgery
from mobilevd.params import Recipe
from mobilevd.settings import Adversarial
from mobilevd.stages import costs
from mobilevd.svd import base as bases
from mobilevd.svd import reference
from mobilevd.svd.sampler import evaluations
from mobilevd.svd.scheduler import Schedule
from mobilevd.svd.unet import VideoUNet

BACKWARD = 3  # a pass with its gradients costs three passes
CRITIC = 4  # the frozen encoder: real and fake for its heads, and the fake again with gradients to the pixels
VALIDATED = 16  # clips of each validation
STATES = 16 + 4  # bytes a trained parameter: weight, gradient, two moments of Adam; and the average
PIXEL, LATENT = 1, 2  # bytes
TOKENS = 1024
TRAINED = ("finetune", "distill", "prune", "funnel")
SPREAD = ("evaluate",)  # clips are shared


@dataclass(frozen=True)
class Speed:
    """10^12 operations a second that one device really reaches, how it is known, and how many devices share a stage.

    None: as many as the recipe's machine for the stage has GPUs.
    """

    tflops: float
    source: str
    devices: int | None = None


@dataclass(frozen=True)
class Network:
    """The base as it is counted: an evaluation in TFLOPs, its encoder's share, parameters, latent shape of a clip, the
    GB that a clip keeps for its gradients, and the evaluations of a clip in the teacher's many steps."""

    tflops: float
    encoder: float
    params: int
    latents: tuple[int, int, int, int]
    kept_gb: float
    teacher: int

    @property
    def encoder_tflops(self) -> float:
        """Of the discriminator's frozen half."""
        return self.encoder * self.tflops


def network(recipe: Recipe) -> Network:
    """The recipe's base, counted without weights; a hub id is counted as SVD. Errors: MobileVDError without a base."""
    (config, side, schedule), asked = _config(recipe), recipe.evaluate
    clip = recipe.clip
    latents = (clip.frames, config["out_channels"], clip.height // side, clip.width // side)
    with torch.device("meta"):
        unet = surgery.rebuild(config | {"num_frames": clip.frames}, [])
    whole = count(unet, (1, *latents))
    blocks = {name: sum(p.numel() for p in getattr(unet, name).parameters()) for name in ("down_blocks", "up_blocks")}
    share = blocks["down_blocks"] / sum(blocks.values())
    params = sum(p.numel() for p in unet.parameters())
    kept = kept_bytes(unet.to("meta"), (1, *latents), recipe.training.gradient_checkpointing) / 1e9
    half = 1 if recipe.training.precision == "fp32" else 0.5
    teacher = evaluations(schedule, asked.teacher_steps, asked.guidance_above)
    return Network(whole.tflops, share, params, latents, kept * half, teacher)


def probe(devices: int | None = None, seconds: float = 3.0) -> Speed:
    """The speed of this machine on pocket-sized passes with gradients, in fp32."""
    unet = bases.load("pocket").unet().train().requires_grad_(True)
    frames, channels = unet.config.num_frames, unet.config.out_channels
    shape = (1, frames, channels, 16, 32)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    unet, tflops = unet.to(device), BACKWARD * count(unet, shape).tflops
    passed, began = 0, 0.0
    while passed < 2 or time.perf_counter() - began < seconds:
        if passed == 1:
            began = time.perf_counter()  # the first pass warms up
        _pass(unet, shape, device)
        passed += 1
    spent = time.perf_counter() - began
    how = f"measured here on {device} in {spent:.0f} s of passes with gradients, fp32"
    return Speed(tflops * (passed - 1) / spent, how, devices)


def rows(recipe: Recipe, speed: Speed, clips: int) -> list[dict]:
    """One row a stage, then the sum: 10^15 operations, hours, device-hours, memory and disk in GB."""
    net = network(recipe)
    disks, found = _disks(recipe, net, clips), []
    for stage, tflops in _works(recipe, net, clips).items():
        devices = _devices(recipe, speed, stage)
        work = tflops * devices if stage in TRAINED else tflops
        hours = work / devices / speed.tflops / 3600
        row = {"stage": stage, "PFLOP": work / 1e3, "hours": hours, "device-hours": devices * hours}
        found.append(row | {"memory, GB": _memory(recipe, net, stage, devices), "disk, GB": disks.get(stage, 0.0)})
    together = {key: max if key.startswith("memory") else sum for key in found[0] if key != "stage"}
    return [*found, {"stage": "all"} | {key: fold(row[key] for row in found) for key, fold in together.items()}]


def table(found: list[dict]) -> list[dict]:
    """The rows for people: hours as seconds, minutes or hours, by their size."""
    names = {"hours": "time", "device-hours": "device-time"}
    return [{names.get(key, key): _time(v) if key in names else v for key, v in row.items()} for row in found]


def assumptions(recipe: Recipe, speed: Speed, clips: int) -> list[str]:
    """What the rows rest on, for people."""
    devices = ", ".join(f"{stage} {_devices(recipe, speed, stage)}" for stage in (*TRAINED, *SPREAD))
    how = "as given" if speed.devices else "gpus of the recipe's machines, 1 without"
    return [
        f"{speed.tflops:.4g} TFLOP/s a device ({speed.source})",
        f"devices: {devices} ({how})",
        "each with the recipe's batch_size: with more devices a step has more clips, not less time",
        "evaluate's clips are shared among the devices; the quantized graph, which the processor runs, is not counted",
        "the teacher is sampled over its base's noise levels, a hub id over SVD's; a guided step is two evaluations",
        f"{clips} clips; the network is the base's until it is cut, so later stages cost less than said",
        f"a pass with gradients costs {BACKWARD} passes, the discriminator's frozen encoder {CRITIC} of its half",
        "that half is the share of its parameters",
        f"memory of a device: weights, gradients, Adam, average ({STATES} bytes a parameter), the frozen encoder",
        "and what a batch keeps for its gradients, counted with plain attention, half of it in bf16 and fp16",
        f"{_checkpoints(recipe)} checkpoints of a stage at once: keep_last, the best if kept, the one being written;",
        "one more while an alarm is on; the base, and clips that a machine fetches, lie on its disk besides",
        "decoding of videos, FVD features and ONNX work are not counted",
        "profile waits for devices, gate and register for nothing: minutes, and none on a GPU",
    ]


def _devices(recipe: Recipe, speed: Speed, stage: str) -> int:
    if stage not in (*TRAINED, *SPREAD):
        return 1
    return speed.devices or recipe.machines.of(stage).gpus or 1


def _time(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.3g} min" if hours >= 1 / 60 else f"{hours * 3600:.3g} s"


def _memory(recipe: Recipe, net: Network, stage: str, devices: int) -> float:
    """GB of one device: what is trained, what is frozen, what a batch keeps for its gradients."""
    weights = net.params * 4 / 1e9
    if stage not in TRAINED:
        return weights
    states = net.params * STATES / 1e9 / (devices if recipe.training.shard else 1)
    if stage == "finetune":
        return states + recipe.finetune.batch_size * net.kept_gb
    batch = getattr(recipe, stage).adversarial.batch_size
    return states + weights + batch * (1 + net.encoder) * net.kept_gb


def _works(recipe: Recipe, net: Network, clips: int) -> dict[str, float]:
    """TFLOPs of every stage, on each device that trains."""
    tuned, asked = recipe.finetune, recipe.evaluate
    encoded = sum(item.tflops for item in _encodings(recipe)) if not _is_local(recipe) else net.tflops / 4
    passes = BACKWARD * tuned.steps * tuned.batch_size * getattr(tuned, "accumulate", 1)
    works = {"prepare": clips * encoded, "finetune": net.tflops * (passes + _checks(tuned.steps, tuned.validate_every))}
    for stage in ("distill", "prune", "funnel"):
        works[stage] = _duel(getattr(recipe, stage).adversarial, net)
    samples = asked.clips * (net.teacher + 4)  # and one step of teacher and three students
    return works | {"quantize": 2 * recipe.quantize.calibration_clips * net.tflops, "evaluate": samples * net.tflops}


def _duel(settings: Adversarial, net: Network) -> float:
    step = BACKWARD * net.tflops + CRITIC * net.encoder_tflops
    batch = settings.batch_size * getattr(settings, "accumulate", 1)
    return settings.steps * batch * step + _checks(settings.steps, settings.validate_every) * net.tflops


def _checks(steps: int, every: int) -> int:
    return VALIDATED * (steps // every + 1)


def _disks(recipe: Recipe, net: Network, clips: int) -> dict[str, float]:
    frames, channels, height, width = net.latents
    pixels = frames * 3 * recipe.clip.height * recipe.clip.width * PIXEL
    latent = ((frames + 1) * channels * height * width + TOKENS) * LATENT
    training = _checkpoints(recipe) * net.params * (STATES - 4) / 1e9 + net.params * 4 / 1e9
    found = {"prepare": clips * (pixels + latent) / 1e9, "quantize": net.params * 5 / 1e9}
    return found | dict.fromkeys(TRAINED, training)


def _checkpoints(recipe: Recipe) -> int:
    """How many lie there at once: the next one is written whole before an old one goes."""
    return recipe.training.keep_last + recipe.training.keep_best + 1


def _pass(unet: VideoUNet, shape: tuple[int, ...], device: str) -> None:
    batch, frames, channels, height, width = shape
    clip = torch.randn(batch, frames, 2 * channels, height, width, device=device)
    tokens = torch.randn(batch, 1, unet.config.cross_attention_dim, device=device)
    out = unet(clip, torch.ones(batch, device=device), tokens, torch.zeros(batch, 3, device=device))
    (out if isinstance(out, torch.Tensor) else out[0]).square().mean().backward()
    if device == "cuda":
        torch.cuda.synchronize()


def _is_local(recipe: Recipe) -> bool:
    """A folder that is not there is told as missing, where a hub id would be counted as SVD."""
    return bases.is_here(recipe.base) or "/" not in recipe.base or recipe.base.startswith(("/", ".", "~"))


def _config(recipe: Recipe) -> tuple[dict, int, Schedule]:
    if not _is_local(recipe):
        return dict(reference.UNET), 8, Schedule()
    base = bases.load(recipe.base)
    return base.unet_config, costs.downscale(base.folder / "vae" / "config.json"), base.schedule


def _encodings(recipe: Recipe):
    from mobilevd.evaluation.encoder_cost import encodings

    tower, one, _ = encodings((recipe.clip.width, recipe.clip.height))
    return (tower, *(one,) * (recipe.clip.frames + 1))
