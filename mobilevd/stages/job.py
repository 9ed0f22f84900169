"""What the training stages share: what they read from the stages before, and what they leave for the ones after.

**Keeps** nothing is read unverified, a network is saved with its log of edits, and a stage whose edit did not make it
cheaper fails (``tests/stages/test_job.py``).
"""

import resource
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobilevd.artifacts import Artifact, StageRecord, seal, verify
from mobilevd.errors import EffectError, IntegrityError
from mobilevd.evaluation.cost import Cost, count
from mobilevd.method import surgery
from mobilevd.params import Adversarial, Recipe
from mobilevd.svd.conditioning import added_ids
from mobilevd.svd.unet import VideoUNet
from mobilevd.training import curves as pictures
from mobilevd.training import data, duel, seeds
from mobilevd.training.checkpoints import Checkpoints
from mobilevd.training.loop import Curves

NETWORK = "network"
LATENTS = "latents"
SAVED = {"tflops": "FLOPs", "params_m": "parameters"}


class Job:
    """One run of one training stage: its recipe, its inputs (records by stage name) and its working folder."""

    def __init__(self, stage: str, recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path):
        self.stage, self.recipe, self.inputs = stage, recipe, inputs
        self.workdir, self._started = Path(workdir).resolve(), time.time()
        self.seed = seeds.derive(recipe.seed, stage)
        self.parents: dict[str, str] = {}

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

    def checkpoints(self) -> Checkpoints:
        """Where this stage's training keeps its checkpoints; call it once all inputs were read."""
        parents = ", ".join(f"{name} {digest}" for name, digest in sorted(self.parents.items()))
        return Checkpoints(self.workdir / "checkpoints", f"{self.stage} of recipe {self.recipe.digest}, {parents}")

    def train(self, generator: VideoUNet, settings: Adversarial, mechanism: duel.Mechanism | None = None) -> Curves:
        """Train ``generator`` adversarially, as distillation, pruning and funnels all do."""
        encoder, clips = self.encoder(), self.clips()
        fight = duel.Duel(
            generator, encoder, clips, self.ids(), settings, self.seed, self.stage, self.checkpoints(), mechanism
        )
        return duel.train(fight)

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
        after = self.measure(unet)
        for saved in ("tflops", "params_m") if weights_too else ("tflops",):
            if not getattr(after, saved) < getattr(before, saved):
                raise EffectError(
                    f"{edit} was declared to save {SAVED[saved]} and did not",
                    got=f"{getattr(after, saved):.6f} {saved} after, {getattr(before, saved):.6f} before",
                    allowed="fewer than before",
                    where=f"the section {self.stage} of the recipe",
                )
        return after

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
        """Save and seal the network, draw the curves, and say it all in a record; the checkpoints go.

        ``costs``: before the stage, after it.
        """
        surgery.save(unet, log, self.workdir / NETWORK)
        network = seal(self.workdir / NETWORK)
        picture = pictures.draw(curves, self.workdir / "pictures" / "curves.png", self.stage)
        record = StageRecord(
            stage=self.stage,
            recipe_digest=self.recipe.digest,
            data_md5=self.inputs["prepare"].data_md5,
            parents=self.parents,
            artifacts={NETWORK: network},
            figures=self._named(figures | _costs(*costs)),
            facts={"edits": ", ".join(entry["op"] for entry in log)},
            curves=curves,
            pictures={
                n: p.relative_to(self.workdir).as_posix() for n, p in {"curves": picture, **(drawn or {})}.items()
            },
            tables=tables or {},
            started_at=self._started,
            seconds=time.time() - self._started,
            peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )
        self.checkpoints().clear()
        return record

    def _artifact(self, stage: str, name: str) -> Artifact:
        if stage not in self.inputs or name not in self.inputs[stage].artifacts:
            given = {s: sorted(r.artifacts) for s, r in self.inputs.items()}
            raise IntegrityError(
                f"The stage {self.stage} needs the {name} of {stage}", got=given, allowed=f"the record of {stage}"
            )
        artifact = self.inputs[stage].artifacts[name]
        if stage not in self.parents:
            verify(artifact.path, artifact.sha256)
            self.parents[stage] = artifact.sha256
        return artifact

    def _named(self, figures: dict[str, float]) -> dict[str, float]:
        return {f"{self.stage}.{name}": float(value) for name, value in figures.items()}


def _costs(before: Cost, after: Cost) -> dict[str, float]:
    return {
        "tflops": after.tflops,
        "params_m": after.params_m,
        "tflops_before": before.tflops,
        "params_m_before": before.params_m,
    }
