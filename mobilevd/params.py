"""The only reader of a recipe: YAML in, frozen typed sections out; every mistake is found before any step runs.

Keeps: an unknown key, a wrong type or an impossible size is an error that says what, got, allowed and where
(``tests/test_params.py``).
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mobilevd.errors import RecipeError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A frozen part of a recipe; strings are never read as numbers (YAML 1.1 reads ``1e-5`` as a string)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Clip(Section):
    """What one training or evaluation clip is: F frames at ``fps`` per second, ``width`` x ``height`` pixels."""

    frames: Annotated[int, Field(ge=2, le=64)] = 14
    fps: Positive = 7.0
    width: Annotated[int, Field(ge=64, multiple_of=64)] = 512
    height: Annotated[int, Field(ge=64, multiple_of=64)] = 256


class Rendered(Section):
    """Clips rendered from the photographs of the data folder: how many from each photograph (0: none)."""

    train_per_photo: Annotated[int, Field(ge=0)] = 0
    validation_per_photo: Annotated[int, Field(ge=0)] = 0


class Prepare(Section):
    """From video files to validated, encoded clips."""

    data: str = "data"
    pin: str | None = "data.dvc"
    windows_per_source: Count = 8
    validation_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.25
    max_failed_share: Share = 0.2
    min_train_clips: Count = 48
    min_validation_clips: Count = 16
    min_motion: Annotated[float, Field(ge=0.0)] = 1.0e-4
    rendered: Rendered = Rendered()


class LogNormal(Section):
    """ln σ ~ N(mean, std²)."""

    mean: Finite
    std: Positive


class Optim(Section):
    """How weights move: AdamW with linear warm-up, then constant or cosine."""

    lr: Positive
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["constant", "cosine"] = "constant"
    max_grad_norm: Positive = 1.0


class Finetune(Section):
    """Low-resolution denoising finetuning (paper, Sec. 3.2)."""

    apply: tuple[Literal["cross_attention"], ...] = ("cross_attention",)
    steps: Count
    batch_size: Count = 1
    optim: Optim
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    sigma: LogNormal = LogNormal(mean=0.7, std=1.6)
    augmentation: LogNormal = LogNormal(mean=-3.0, std=0.5)
    conditioning_dropout: Share = 0.1
    validate_every: Count = 50


class Adversarial(Section):
    """SF-V's adversarial recipe (arXiv 2406.04324); the constants it leaves open are ours, see docs/decisions."""

    steps: Count
    batch_size: Count = 1
    generator: Optim
    discriminator: Optim
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.95
    sigmas: tuple[Positive, ...] = (2.27, 70.5, 700.0)
    discriminator_sigma: LogNormal = LogNormal(mean=-1.0, std=1.0)
    heads: tuple[Literal["spatial", "temporal"], ...] = ("spatial", "temporal")
    head_channels: Count = 64
    reconstruction_weight: Annotated[float, Field(ge=0.0)] = 0.1
    adversarial_weight: Annotated[float, Field(ge=0.0)] = 1.0
    huber_c: Positive = 0.03
    r1_gamma: Annotated[float, Field(ge=0.0)] = 1.0e-4
    r1_every: Count = 1
    validate_every: Count = 50


class Multiscale(Section):
    """Temporal multiscaling: how the frame axis is halved inside the network."""

    down: Literal["max", "average", "stride"] = "max"


class Distill(Section):
    """Adversarial distillation to one evaluation, with temporal multiscaling."""

    apply: tuple[Literal["temporal_multiscale"], ...] = ("temporal_multiscale",)
    temporal_multiscale: Multiscale = Multiscale()
    adversarial: Adversarial


class Prune(Section):
    """Temporal block pruning: keep the ``keep`` most important temporal blocks, learned under the adversarial loss."""

    keep: Annotated[int, Field(ge=0)]
    importance_lr: Positive = 0.05
    adversarial: Adversarial


class Funnel(Section):
    """Channel funnels on self-attention: kept share of each head's channels, trained unmerged, merged at the end."""

    fun_factor: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    where: Literal["spatial", "temporal", "all"] = "spatial"
    init: Literal["csi", "he"] = "csi"
    adversarial: Adversarial


class Quantize(Section):
    """Static QDQ quantization of the one-step network, calibrated on real latents."""

    weights: Literal["int8"] = "int8"
    activations: Literal["uint8", "uint16"] = "uint16"
    calibration_clips: Count = 8
    opset: Annotated[int, Field(ge=18, le=20)] = 18
    min_sqnr_db: Finite = 15.0


class Profile(Section):
    """On-device timing of the quantized network: one task per device."""

    devices: Annotated[tuple[str, ...], Field(min_length=1)] = ("host-cpu",)
    warmup: Annotated[int, Field(ge=0)] = 3
    repeats: Count = 20


class Evaluate(Section):
    """FVD and its references on the validation clips."""

    clips: Annotated[int, Field(ge=2)] = 16
    teacher_steps: Annotated[int, Field(ge=2)] = 25
    guidance: tuple[Positive, Positive] = (1.0, 3.0)
    motion_bucket: Annotated[int, Field(ge=0, le=255)] = 127
    augmentation_sigma: Annotated[float, Field(ge=0.0)] = 0.02


class Gate(Section):
    """One condition on one metric: at most ``max``, at least ``min``, or at most ``max_ratio`` times ``of``."""

    metric: str
    max: Finite | None = None
    min: Finite | None = None
    max_ratio: Positive | None = None
    of: str | None = None
    why: str = ""

    @model_validator(mode="after")
    def _one_limit(self) -> "Gate":
        limits = [self.max, self.min, self.max_ratio]
        if sum(x is not None for x in limits) != 1:
            raise ValueError("give exactly one of max, min, max_ratio")
        if (self.max_ratio is None) != (self.of is None):
            raise ValueError("max_ratio and of go together")
        return self


class Registry(Section):
    """Where accepted models are offered."""

    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "mobilevd"
    experiment: str = "mobilevd"


class Recipe(Section):
    """Everything one run depends on besides its data and code."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    base: str = "pocket"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    clip: Clip = Clip()
    prepare: Prepare = Prepare()
    finetune: Finetune
    distill: Distill
    prune: Prune
    funnel: Funnel
    quantize: Quantize = Quantize()
    profile: Profile = Profile()
    evaluate: Evaluate = Evaluate()
    gates: Annotated[tuple[Gate, ...], Field(min_length=1)]
    registry: Registry = Registry()

    @property
    def digest(self) -> str:
        """sha256 over the canonical JSON of every value, defaults included."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def load(path: str | Path) -> Recipe:
    """Read and check the recipe at ``path``. Errors: RecipeError naming key, value, what is allowed and the file."""
    path = Path(path)
    if not path.is_file():
        raise RecipeError(
            "The recipe does not exist", got=str(path), allowed="a YAML file", where="--config recipe FILE"
        )
    return check(_mapping(path.read_bytes(), str(path)), str(path))


def parse(text: str) -> dict[str, Any]:
    """Metaflow's parser of ``--config recipe FILE``: the checked recipe as a plain dictionary, defaults filled in."""
    return check(_mapping(text, "--config recipe"), "--config recipe").model_dump(mode="json")


def check(values: dict[str, Any], where: str = "recipe") -> Recipe:
    """Turn plain values into a Recipe. Errors: RecipeError with one entry per mistake, all of them at once."""
    try:
        return Recipe.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise RecipeError(_headline(error), where=where) from None


def _mapping(text: str | bytes, where: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError("The recipe is not YAML", got=str(error), allowed="YAML", where=where) from None
    if not isinstance(values, dict):
        raise RecipeError("The recipe is not a mapping", got=values, allowed="sections as in params.yaml", where=where)
    return values


def _headline(error: ValidationError) -> str:
    lines = ["The recipe cannot be run"]
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or "recipe"
        if item["type"] == "extra_forbidden":
            lines.append(f"  {key}: unknown key, got {item['input']!r}; allowed here: {_keys_at(item['loc'][:-1])}")
        elif item["type"] == "missing":
            lines.append(f"  {key}: missing; it has no default")
        else:
            lines.append(f"  {key}: got {item['input']!r}; allowed: {item['msg'][0].lower()}{item['msg'][1:]}")
    return "\n".join(lines)


def _keys_at(location: tuple) -> str:
    model: Any = Recipe
    for part in location:
        if isinstance(part, int):
            continue
        model = model.model_fields[part].annotation
        model = next((a for a in getattr(model, "__args__", ()) if _is_section(a)), model)
    return ", ".join(model.model_fields) if _is_section(model) else "no keys"


def _is_section(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, Section)
