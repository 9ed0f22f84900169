"""The sections of a recipe that say what is made, stage by stage, down to the gates: typed, frozen, checked one by one.

Keeps: a value that cannot work, or two that contradict each other, are refused (``tests/test_settings.py``).
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from mobilevd.device_settings import Phone, Profile, Quantize  # noqa: F401
from mobilevd.section import Below1, Count, NotNegative, Once, Positive, Section, Several, Share

THRESHOLDS = ("max", "min")
COMPARISONS = ("max_ratio", "max_worse", "max_worse_percent", "min_better", "min_better_percent")


def _compiles(told: str) -> str:
    try:
        re.compile(told)
    except re.error as error:
        raise ValueError(f"a regular expression, which this is not: {error}") from None
    return told


Expression = Annotated[str, Field(min_length=1), AfterValidator(_compiles)]


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
    """From video files to validated, encoded clips; ``data``: a folder, or a DVC remote on S3, of which ``pin`` (a DVC
    file, on S3 too if you like) names the folder. ``files_per_shard``: so many are one task's, and in its memory.
    ``scene``: what of a file's path names its scene, see ``video.split.scenes``; unset it is no part of a digest."""

    data: str = "data"
    pin: str | None = "data.dvc"
    windows_per_source: Count = 8
    validation_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.25
    max_failed_share: Share = 0.2
    min_train_clips: Count = 48
    min_validation_clips: Count = 16
    min_motion: NotNegative = 1.0e-4
    rendered: Rendered = Rendered()
    files_per_shard: Count = 500
    scene: Expression | None = Field(default=None, exclude_if=lambda told: told is None)

    @model_validator(mode="after")
    def _remote_data_is_pinned(self) -> "Prepare":
        if self.data.startswith("s3://") and self.pin is None:
            raise ValueError("data on S3 is a DVC remote, of which pin names the folder")
        return self


class LogNormal(Section):
    """ln σ ~ N(mean, std²)."""

    mean: float
    std: Positive


class Rate(Section):
    """Parameters whose name holds ``match`` (a regular expression), and their own peak rate; 0 freezes them."""

    match: Annotated[str, Field(min_length=1)]
    lr: NotNegative

    @model_validator(mode="after")
    def _expression(self) -> "Rate":
        try:
            re.compile(self.match)
        except re.error as error:
            raise ValueError(f"match is no regular expression: {error}") from None
        return self


class Optim(Section):
    """How weights move: linear warm-up, then constant or cosine; ``rates``: by name, the first that matches counts.

    ``muon`` moves matrices and convolutions by orthogonal steps; ``adamw_8bit`` (bitsandbytes) and ``sm3``
    (pytorch-optimizer, as SF-V) keep less state than ``adamw``.
    """

    kind: Literal["adamw", "muon", "adamw_8bit", "sm3"] = "adamw"
    lr: Positive
    rates: tuple[Rate, ...] = ()
    betas: tuple[Below1, Below1] = (0.9, 0.999)
    weight_decay: NotNegative = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["constant", "cosine"] = "constant"
    max_grad_norm: Positive = 1.0

    @model_validator(mode="after")
    def _sm3_does_not_decay(self) -> "Optim":
        if self.kind == "sm3" and self.weight_decay:
            raise ValueError("kind: sm3 has no weight_decay")
        return self


class Finetune(Section):
    """Low-resolution denoising finetuning (paper, Sec. 3.2)."""

    apply: Annotated[tuple[Literal["cross_attention"], ...], Once] = ("cross_attention",)
    steps: Count
    batch_size: Count = 1
    accumulate: Count = 1
    optim: Optim
    ema_decay: Below1 = 0.99
    sigma: LogNormal = LogNormal(mean=0.7, std=1.6)
    augmentation: LogNormal = LogNormal(mean=-3.0, std=0.5)
    conditioning_dropout: Share = 0.1
    validate_every: Count = 50


class Adversarial(Section):
    """SF-V's adversarial recipe (arXiv 2406.04324); the constants it leaves open are ours, see docs/decisions.

    In the first ``head_start`` of ``steps`` the discriminator's heads learn alone. ``heads_from``: they start new, or
    as the stage before left them. ``look``: at what each down block of the frozen encoder gives, after its downsampler
    (as SF-V) or before it, twice as fine. ``huber_over``: the norm in L_rec, see ``adversarial.pseudo_huber``.
    """

    steps: Count
    head_start: Annotated[int, Field(ge=0)] = 0
    batch_size: Count = 1
    accumulate: Count = 1
    generator: Optim
    discriminator: Optim
    ema_decay: Below1 = 0.95
    sigmas: Annotated[tuple[Positive, ...], Several] = (2.27, 70.5, 700.0)
    discriminator_sigma: LogNormal = LogNormal(mean=-1.0, std=1.0)
    heads: Annotated[tuple[Literal["spatial", "temporal"], ...], Several] = ("spatial", "temporal")
    heads_from: Literal["new", "previous"] = "new"
    head_channels: Annotated[Count, Field(multiple_of=8)] = 64  # its norms have 8 groups
    look: Literal["after_downsampler", "before_downsampler"] = "after_downsampler"
    reconstruction_weight: NotNegative = 0.1
    adversarial_weight: NotNegative = 1.0
    huber_c: Positive = 0.03
    huber_over: Literal["clip", "sum", "position"] = "clip"
    r1_gamma: NotNegative = 1.0e-4
    r1_every: Count = 1
    r1_form: Literal["derivative", "difference"] = "derivative"
    validate_every: Count = 50

    @model_validator(mode="after")
    def _generator_moves(self) -> "Adversarial":
        if self.head_start >= self.steps:
            raise ValueError(f"head_start: got {self.head_start}; allowed: below steps, here {self.steps}")
        return self


Answer = Literal["warn", "stop", "roll_back"]


class Health(Section):
    """What every training is watched for, and the answer: to the next step, the end, or the last healthy checkpoint.

    Rolling back multiplies the learning rates by ``slower`` and gives up after ``rollbacks``. Gradient norms are judged
    against the median of the last 50; figures of ``clips`` validation clips against the real clips' (see health.py).
    """

    not_finite: Answer = "stop"
    gradients: Answer = "warn"
    discriminator: Answer = "warn"
    samples: Answer = "warn"
    rollbacks: Count = 2
    slower: Share = 0.5
    patience: Count = 20
    exploded: Positive = 1000.0
    vanished: NotNegative = 1.0e-8
    saturated: NotNegative = 0.02
    clips: Annotated[int, Field(ge=1, le=16)] = 4
    min_motion_ratio: NotNegative = 0.1
    max_copy_rate: Share = 0.95
    min_entropy_ratio: NotNegative = 0.5
    max_loop_score: Share = 0.6


class Training(Section):
    """How the training stages run, whatever they train.

    ``shard``: weights, gradients and optimizer states are split over the processes of torchrun. ``motion_bucket``: one
    id for all clips, or measured on each. ``keep_last``, ``keep_best``: which checkpoints stay while training goes on.
    ``leave``: the weights of the last validation, or of the best. ``resume``: stage → folder of checkpoints to go on
    from, instead of the run's own; it must be there.
    """

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    gradient_checkpointing: bool = False
    compile: bool = False
    shard: bool = False
    workers: Annotated[int, Field(ge=0)] = 0
    motion_bucket: Literal["measured"] | Annotated[int, Field(ge=0, le=255)] = 127
    checkpoint_every: Count | None = None
    keep_last: Count = 2
    keep_best: bool = True
    leave: Literal["last", "best"] = "last"
    resume: dict[Literal["finetune", "distill", "prune", "funnel"], str] = Field(default_factory=dict)
    health: Health = Health()

    @model_validator(mode="after")
    def _best_is_kept(self) -> "Training":
        if self.leave == "best" and not self.keep_best:
            raise ValueError("leave: best needs keep_best: true")
        return self


class Multiscale(Section):
    """How multiscaling halves its axes (frames, or height and width) inside the network."""

    down: Literal["max", "average", "stride"] = "max"


class StillStart(Section):
    """The one evaluation starts at noise level ``sigma`` around the still clip, not at σ_max from noise alone."""

    sigma: Annotated[float, Field(gt=0.0, lt=700.0)]


class Distill(Section):
    """Adversarial distillation to one evaluation, with temporal or spatial multiscaling, both or neither.

    ``still_start``: where the evaluation starts from then on; without, at σ_max from noise, as SF-V's.
    """

    apply: Annotated[tuple[Literal["temporal_multiscale", "spatial_multiscale"], ...], Once] = ("temporal_multiscale",)
    temporal_multiscale: Multiscale = Multiscale()
    spatial_multiscale: Multiscale = Multiscale()
    still_start: StillStart | None = None
    adversarial: Adversarial

    @property
    def start_sigma(self) -> float:
        """The noise level of the one evaluation: SVD's σ_max, unless there is a still start."""
        return self.still_start.sigma if self.still_start else 700.0


class Prune(Section):
    """Temporal block pruning: ``keep`` blocks stay, or as many as fit into ``keep_tflops`` of one whole evaluation.

    ``by``: importances ``learned`` by sampling, or gates under an ``l1`` penalty, both at ``importance_lr``; the
    ``magnitude`` 1 − α of the blend; ``random``. ``rank`` weighs an importance by what the block costs, or not.
    """

    by: Literal["learned", "l1", "magnitude", "random"] = "learned"
    keep: Annotated[int, Field(ge=0)] | None = None
    keep_tflops: Positive | None = None
    rank: Literal["importance", "importance_per_tflop"] = "importance"
    importance_lr: Positive = 0.05
    l1_weight: Positive | None = None
    adversarial: Adversarial

    @model_validator(mode="after")
    def _one_budget(self) -> "Prune":
        if (self.keep is None) == (self.keep_tflops is None):
            raise ValueError("give exactly one of keep (blocks) and keep_tflops (10^12 operations)")
        if (self.l1_weight is None) == (self.by == "l1"):
            raise ValueError("by: l1 and l1_weight go together")
        return self


class Funnel(Section):
    """Narrower layers: funnels between two of them, or each matrix cut by itself; ``fun_factor`` is the share kept.

    ``layers``: self-attention's heads, conv1 → conv2 of the ResBlocks, or both. ``data_aware``: CSI weighted by what
    flows in ``calibration_clips``, with ranks from one budget. ``merge``: into the neighbours after training or before.
    """

    kind: Literal["funnel", "truncated"] = "funnel"
    layers: Literal["attention", "convolution", "both"] = "attention"
    fun_factor: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    where: Literal["spatial", "temporal", "all"] = "spatial"
    init: Literal["csi", "he", "data_aware"] = "csi"
    calibration_clips: Count = 4
    merge: Literal["after", "before"] = "after"
    adversarial: Adversarial

    @model_validator(mode="after")
    def _possible(self) -> "Funnel":
        if self.kind == "truncated" and (self.layers, self.init, self.merge) != ("attention", "csi", "after"):
            raise ValueError("kind: truncated cuts attention only, and has neither an init nor a merge to choose")
        if self.init == "data_aware" and self.layers != "attention":
            raise ValueError("init: data_aware needs layers: attention (between convolutions lies a nonlinearity)")
        return self


class Evaluate(Section):
    """FVD and its references on the validation clips.

    ``guidance``: of the teacher's first and last frame; at σ of at most ``guidance_above`` there is none, and a step is
    one evaluation (0: guided to the end, as SVD's sampler).
    """

    clips: Annotated[int, Field(ge=2)] = 16
    teacher_steps: Annotated[int, Field(ge=2)] = 25
    guidance: tuple[Positive, Positive] = (1.0, 3.0)
    guidance_above: NotNegative = 0.0
    motion_bucket: Annotated[int, Field(ge=0, le=255)] = 127
    augmentation_sigma: NotNegative = 0.02


class Gate(Section):
    """One condition on one metric: a threshold, or a comparison with ``of``.

    ``max``, ``min``: thresholds. ``max_ratio``: at most so many times ``of``. ``max_worse``, ``max_worse_percent``: no
    more than that worse than ``of``. ``min_better``, ``min_better_percent``: at least that much better. ``of``: another
    metric of the run, ``teacher`` (the teacher's figure of that name) or ``champion`` (the champion's same metric).
    ``better``: which way is better. ``by``: judged by the figure itself, or by all of its 95 % interval.
    ``measured_on``: the class of device that the figure must be of; without, the one that the metric names.
    """

    metric: str
    max: float | None = None
    min: float | None = None
    max_ratio: Positive | None = None
    max_worse: NotNegative | None = None
    max_worse_percent: NotNegative | None = None
    min_better: NotNegative | None = None
    min_better_percent: NotNegative | None = None
    of: str | None = None
    better: Literal["lower", "higher"] = "lower"
    by: Literal["point", "interval"] = "point"
    measured_on: Literal["host", "emulator", "phone"] | None = None
    why: str = ""

    @property
    def kind(self) -> str:
        """The name of the one limit that is given."""
        return next(name for name in (*THRESHOLDS, *COMPARISONS) if getattr(self, name) is not None)

    @property
    def wants_more(self) -> bool:
        """Whether a greater figure is a better one."""
        return self.kind == "min" or self.better == "higher"

    @model_validator(mode="after")
    def _one_limit(self) -> "Gate":
        given = [name for name in (*THRESHOLDS, *COMPARISONS) if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join((*THRESHOLDS, *COMPARISONS))}")
        if (given[0] in COMPARISONS) != (self.of is not None):
            raise ValueError(f"{', '.join(COMPARISONS)} and of go together")
        if self.better == "higher" and given[0] in (*THRESHOLDS, "max_ratio"):
            raise ValueError(f"{given[0]} says itself which way is better")
        if self.measured_on is not None and not self.metric.startswith("profile."):
            raise ValueError("measured_on is for figures of a device, profile.<device>.<figure>")
        return self


class Registry(Section):
    """Where accepted models are offered; ``live``: curves are sent while a stage trains, not only at the end."""

    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "mobilevd"
    experiment: str = "mobilevd"
    live: bool = False
