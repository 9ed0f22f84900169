"""What the training stages share: what they read from the stages before, and what they leave for the ones after.

**Keeps** nothing is read unverified, a network is saved with its log of edits, a stage whose edit did not make it
cheaper fails, and checkpoints stay until the record is on the disk (``tests/stages/test_job.py``).
"""

import itertools
import os
import resource
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from mobilevd.artifacts import Artifact, StageRecord, seal, verify
from mobilevd.errors import EffectError, IntegrityError
from mobilevd.evaluation.cost import Cost, count
from mobilevd.method import surgery
from mobilevd.params import HEADS, PREVIOUS, Recipe
from mobilevd.registry.live import Live
from mobilevd.settings import Adversarial
from mobilevd.stages import samples
from mobilevd.stages.shared_run import RECORD
from mobilevd.svd.conditioning import added_ids, motion_buckets
from mobilevd.svd.unet import VideoUNet
from mobilevd.training import curves as pictures
from mobilevd.training import data, duel, seeds
from mobilevd.training.checkpoints import Checkpoints
from mobilevd.training.loop import Curves, Run
from mobilevd.video import manifest, store

NETWORK = "network"
LATENTS, CLIPS = "latents", "clips"
HEADS_FILE = "heads.safetensors"
BESIDE = (HEADS,)  # artifacts that lie beside the one that a stage is known by
SAVED = {"tflops": "FLOPs", "params_m": "parameters"}


class ShareDone(Exception):  # noqa: N818 - nothing failed
    """The part of a stage that several processes share is over."""


class Job:
    """One run of one training stage: its recipe, its inputs (records by stage name) and its working folder."""

    def __init__(self, stage: str, recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path):
        self.stage, self.recipe, self.inputs = stage, recipe, inputs
        self.workdir, self._started = Path(workdir).resolve(), time.time()
        self.seed = seeds.derive(recipe.seed, stage)
        self.parents: dict[str, str] = {}
        self._run, self._sent = Run(), {}
        place = "/".join(self.workdir.parts[-3:])  # flow, run, stage
        self.live = Live(recipe, stage, place) if recipe.registry.live else None

    def clips(self) -> tuple[Path, Path]:
        """The prepared latents: training file, validation file."""
        folder = self._artifact("prepare", LATENTS).path
        return folder / "train.safetensors", folder / "validation.safetensors"

    def network(self, stage: str) -> tuple[VideoUNet, surgery.Log]:
        """The network that ``stage`` left, in fp32, and the log of its edits."""
        return surgery.load(self._artifact(stage, NETWORK).path, torch.float32)

    def encoder(self) -> VideoUNet:
        """The down path of the finetuned teacher, for the discriminator; what it never runs is let go."""
        teacher, _ = self.network("finetune")
        teacher.mid_block, teacher.up_blocks = None, None
        return teacher

    def ids(self) -> Tensor:
        """The added ids [1 3] of every clip: the recipe's fps, motion bucket and σ_c, as at inference."""
        at = self.recipe.evaluate
        return added_ids(1, self.recipe.clip.fps, at.motion_bucket, at.augmentation_sigma)

    def training_ids(self) -> Tensor:
        """The added ids of the training clips: one row for all, or [N 3] with each clip's own motion bucket."""
        at, bucket = self.recipe.evaluate, self.recipe.training.motion_bucket
        if bucket != "measured":
            return added_ids(1, self.recipe.clip.fps, bucket, at.augmentation_sigma)
        rows = [row for row in manifest.rows(self._artifact("prepare", LATENTS).path) if row.split == "train"]
        buckets = motion_buckets([row.motion for row in rows])
        return torch.cat([added_ids(1, self.recipe.clip.fps, b, at.augmentation_sigma) for b in buckets])

    def samples(self) -> samples.Samples:
        """What shows and measures the outputs of each validation, on the first validation clips."""
        paths = dict(zip(("train", "validation"), self.clips(), strict=True))
        pixels = store.clips(self._sealed("prepare", CLIPS).part("train.safetensors", first=True))
        video = torch.stack(list(itertools.islice(pixels, samples.FIT_CLIPS)))
        preview = samples.fit(data.Clips(paths["train"]).batch(list(range(len(video)))).latents, video)
        held_out = data.Clips(paths["validation"])
        real = held_out.batch(list(range(min(self.recipe.training.health.clips, len(held_out))))).latents
        return samples.Samples(preview, real, self.workdir / "pictures", self.stage)

    def checkpoints(self) -> Checkpoints:
        """Where this stage's training keeps its checkpoints; call it once all inputs were read."""
        parents = ", ".join(f"{name} {digest}" for name, digest in sorted(self.parents.items()))
        fingerprint, how = f"{self.stage} of recipe {self.recipe.digest}, {parents}", self.recipe.training
        resume = how.resume.get(self.stage)
        folder = self.workdir / "checkpoints"
        return Checkpoints(folder, fingerprint, how.keep_last, how.keep_best, Path(resume) if resume else None)

    def train(self, generator: VideoUNet, settings: Adversarial, mechanism: duel.Mechanism | None = None) -> Curves:
        """Train ``generator`` adversarially, as distillation, pruning and funnels all do."""
        encoder, clips, show, heads = self.encoder(), self.clips(), self.samples(), self._heads()
        fight = duel.Duel(
            generator,
            encoder,
            clips,
            (self.training_ids(), self.ids()),
            settings,
            self.seed,
            self.stage,
            self.recipe.training,
            self.checkpoints(),
            mechanism,
            show,
            self.live,
            heads,
            self.workdir / HEADS / HEADS_FILE if self.stage in PREVIOUS.values() else None,
        )
        return self.follow(duel.train(fight))

    def _heads(self) -> Path | None:
        giver = self.recipe.handed_on().get(self.stage)
        return giver and self._artifact(giver, HEADS).path / HEADS_FILE

    def follow(self, run: Run) -> Curves:
        """Note what the stage's training left, for the record; returns its curves.

        Errors: ShareDone in every process but the first, which goes on alone: the others would do the same again.
        """
        if distributed.is_initialized() and distributed.get_rank():
            raise ShareDone
        self._run = run
        self._sent = self.live.end(run.curves, run.rollbacks) if self.live else {}
        return run.curves

    def latents(self) -> tuple[int, ...]:
        """The shape of one clip's latents (1 F C H W)."""
        return (1, *data.Clips(self.clips()[1]).shape)

    def measure(self, unet: VideoUNet) -> Cost:
        """FLOPs and parameters of one evaluation on one clip."""
        return count(unet, self.latents())

    def cheaper(self, unet: VideoUNet, before: Cost, edit: str, weights_too: bool = False) -> Cost:
        """The cost of ``unet`` after ``edit``.

        Errors: EffectError when its FLOPs, or with ``weights_too`` its parameters, are not fewer than before.
        """
        return cheaper(self.measure(unet), before, edit, self.stage, SAVED if weights_too else ("tflops",))

    def record(
        self,
        unet: VideoUNet,
        log: surgery.Log,
        costs: tuple[Cost, Cost],
        curves: Curves,
        figures: dict[str, float],
        drawn: dict[str, Path] | None = None,
        tables: dict[str, list[dict[str, Any]]] | None = None,
    ) -> StageRecord:
        """Save and seal the network, draw the curves, and say it all in a record; once that is kept, checkpoints go.

        ``costs``: before the stage, after it.
        """
        surgery.save(unet, log, self.workdir / NETWORK)
        trained = [name for name in (NETWORK, HEADS) if (self.workdir / name).is_dir()]
        folder = self.workdir / "pictures"
        picture = pictures.draw(curves, folder / "curves.png", self.stage)
        strip = {"real above sampled": folder / samples.STRIP} if (folder / samples.STRIP).is_file() else {}
        record = StageRecord(
            stage=self.stage,
            recipe_digest=self.recipe.digest,
            data_md5=self.inputs["prepare"].data_md5,
            parents=self.parents,
            artifacts={name: seal(self.workdir / name) for name in trained},
            figures=self._named(figures | _costs(*costs) | _pace(self._run)),
            facts={"edits": ", ".join(entry["op"] for entry in log), "threads": str(torch.get_num_threads())}
            | _told(self._run)
            | self._sent,
            curves=curves,
            pictures={
                n: p.relative_to(self.workdir).as_posix()
                for n, p in {"curves": picture, **strip, **(drawn or {})}.items()
            },
            tables=(tables or {}) | _alarms(self._run),
            started_at=self._started,
            seconds=time.time() - self._started,
            peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )
        self._keep(record)
        return record

    def _keep(self, record: StageRecord) -> None:
        record.save(self.workdir / RECORD)
        os.sync()  # whatever a power cut takes, network or checkpoints are left
        self.checkpoints().clear()

    def _artifact(self, stage: str, name: str) -> Artifact:
        artifact = self._sealed(stage, name)
        if name in BESIDE or stage not in self.parents:
            verify(artifact.path, artifact.sha256)
        if name not in BESIDE:
            self.parents[stage] = artifact.sha256
        return artifact

    def _sealed(self, stage: str, name: str) -> Artifact:
        if stage not in self.inputs or name not in self.inputs[stage].artifacts:
            given = {s: sorted(r.artifacts) for s, r in self.inputs.items()}
            raise IntegrityError(
                f"The stage {self.stage} needs the {name} of {stage}", got=given, allowed=f"the record of {stage}"
            )
        return self.inputs[stage].artifacts[name]

    def _named(self, figures: dict[str, float]) -> dict[str, float]:
        return {f"{self.stage}.{name}": float(value) for name, value in figures.items()}


def cheaper(after: Cost, before: Cost, edit: str, stage: str, declared: Iterable[str]) -> Cost:
    """``after``, what a network costs after ``edit``. Errors: EffectError when of ``declared`` there is no less."""
    for saved in declared:
        if not getattr(after, saved) < getattr(before, saved):
            raise EffectError(
                f"{edit} was declared to save {SAVED[saved]} and did not",
                got=f"{getattr(after, saved):.6f} {saved} after, {getattr(before, saved):.6f} before",
                allowed="fewer than before",
                where=f"the section {stage} of the recipe",
            )
    return after


def _costs(before: Cost, after: Cost) -> dict[str, float]:
    return {
        "tflops": after.tflops,
        "params_m": after.params_m,
        "tflops_before": before.tflops,
        "params_m_before": before.params_m,
    }


def _pace(run: Run) -> dict[str, float]:
    """How fast the training went, and the shares of its steps' time that clips and checkpoints took."""
    spent = run.seconds["steps"]
    if not run.steps_taken:
        return {}
    shares = {"clips_share": run.seconds["clips"] / spent, "checkpoints_share": run.seconds["checkpoints"] / spent}
    return {"steps_per_second": run.steps_taken / spent} | shares


def _told(run: Run) -> dict[str, str]:
    state = "; ".join(alarm.reason for alarm in run.alarms) or "no alarm"
    return {"health": state} | ({"checkpoints": "; ".join(run.notes)} if run.notes else {})


def _alarms(run: Run) -> dict[str, list[dict[str, Any]]]:
    rows = [alarm._asdict() | {"got": f"{alarm.got:.4g}"} for alarm in run.alarms]  # as text: it may be NaN
    return {"health": rows} if rows else {}
