"""The paper's claims at pocket scale, each over several seeds. ``python benchmarks/claims.py heads --seeds 3``

The real stages on ``params.yaml``, changed in one thing; every arm of a claim starts from the same finetuned network
of its seed. What is there in ``--folder`` is not made again, so that a run that was stopped goes on. A claim is shown
when it holds on every seed. No arm was tuned; what the recipe says of the adversarial stages, in which all arms are
alike, was chosen by the student's score at seed 0 (``short`` shows what that changed).
"""

import argparse
import importlib
import itertools
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LITTLE = 1.1  # times the distance without temporal multiscaling
LONG = {  # of what params.yaml says otherwise, all but the losses' weights and rates, in as many steps of the generator
    "steps": 120,
    "head_start": 0,
    "look": "after_downsampler",
    "huber_over": "clip",
    "r1_form": "derivative",
    "discriminator_sigma": {"mean": -1.0, "std": 1.0},
    "sigmas": [2.27, 70.5, 700.0],
}
FROM_NOISE = {"still_start": None, "adversarial": {"sigmas": LONG["sigmas"]}}
FIGURES = ("fvd_to_reconstructed", "fvd", "motion_ratio", "gflops")
Scores = dict[str, float]


@dataclass(frozen=True)
class Arm:
    """A stage and what its section says instead of the recipe's words."""

    stage: str
    change: dict[str, Any]


ARMS = {
    "teacher in one step": Arm("finetune", {}),
    "adversarial student": Arm("distill", {}),
    "spatial heads only": Arm("distill", {"adversarial": {"heads": ["spatial"]}}),
    "no multiscaling": Arm("distill", {"apply": []}),
    "as in a long training": Arm("distill", {"still_start": None, "adversarial": LONG}),
    "from noise alone": Arm("distill", FROM_NOISE),
    "learned pruning": Arm("prune", {}),
    "random pruning": Arm("prune", {"by": "random"}),
    "L1 pruning": Arm("prune", {"by": "l1", "l1_weight": 1.0e-3}),
    "CSI, merged after": Arm("funnel", {"where": "all"}),
    "He, merged after": Arm("funnel", {"where": "all", "init": "he"}),
    "CSI, merged before": Arm("funnel", {"where": "all", "merge": "before"}),
}


@dataclass(frozen=True)
class Claim:
    """One arm against others: ``holds`` is asked on every seed, of the first's scores and another's."""

    says: str
    arm: str
    others: tuple[str, ...]
    holds: Callable[[Scores, Scores], bool]


def nearer(one: Scores, other: Scores) -> bool:
    return one["fvd_to_reconstructed"] < other["fvd_to_reconstructed"]


def livelier_too(one: Scores, other: Scores) -> bool:
    return nearer(one, other) and abs(one["motion_ratio"] - 1) < abs(other["motion_ratio"] - 1)


def costs_little(one: Scores, other: Scores) -> bool:
    cheap = one["gflops"] < other["gflops"]
    return cheap and one["fvd_to_reconstructed"] <= LITTLE * other["fvd_to_reconstructed"]


CLAIMS = {
    "one-step": Claim(
        "a one-step adversarial student is far better than its teacher in one step",
        "adversarial student",
        ("teacher in one step",),
        nearer,
    ),
    "heads": Claim(
        "spatial and temporal heads beat spatial ones in FVD and motion",
        "adversarial student",
        ("spatial heads only",),
        livelier_too,
    ),
    "funnels": Claim(
        "CSI's start beats He's; merging after training beats merging before",
        "CSI, merged after",
        ("He, merged after", "CSI, merged before"),
        nearer,
    ),
    "pruning": Claim(
        "learned pruning beats random and L1 at as many blocks",
        "learned pruning",
        ("random pruning", "L1 pruning"),
        nearer,
    ),
    "short": Claim(
        "in few steps, heads that start first and see finer, and reconstruction by position, bring the student nearer",
        "adversarial student",
        ("as in a long training",),
        nearer,
    ),
    "start": Claim(
        "a student that starts from the still clip is nearer than one that starts from noise alone",
        "adversarial student",
        ("from noise alone",),
        nearer,
    ),
    "multiscaling": Claim(
        f"temporal multiscaling costs at most {LITTLE - 1:.0%} FVD for its FLOPs",
        "adversarial student",
        ("no multiscaling",),
        costs_little,
    ),
}


def main() -> int:
    """Show one claim, or all; the exit code says nothing of what was found."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("claim", choices=[*CLAIMS, "all"])
    options.add_argument("--folder", type=Path, default=ROOT / "runs" / "claims", help="where everything is kept")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--steps", type=int, help="of every adversarial training (default: the recipe's)")
    options.add_argument("--finetune-steps", type=int, help="of the finetuning before them (default: the recipe's)")
    options.add_argument("--clips", type=int, default=16, help="held-out clips of each score")
    given = options.parse_args()
    lab = Lab(given.folder.resolve(), given.steps, given.finetune_steps, given.clips)
    for name in CLAIMS if given.claim == "all" else [given.claim]:
        show(name, lab, range(given.seeds))
    return 0


def show(name: str, lab: "Lab", seeds: range) -> None:
    """Make what is missing for a claim, and print its table."""
    claim = CLAIMS[name]
    scores = {arm: [lab.scores(arm, seed) for seed in seeds] for arm in (claim.arm, *claim.others)}
    print(
        f"\n**{name}**: {claim.says}\n\n| arm | " + " | ".join(FIGURES) + " | holds |\n|" + "---|" * (len(FIGURES) + 2)
    )
    for arm, rows in scores.items():
        held = [claim.holds(one, other) for one, other in zip(scores[claim.arm], rows, strict=True)]
        verdict = "–" if arm == claim.arm else f"on {sum(held)} of {len(held)} seeds"
        print(
            f"| {arm} | " + " | ".join(spread([row[f] for row in rows]) for f in FIGURES) + f" | {verdict} |",
            flush=True,
        )


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    mean, deviation = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    digits = 0 if abs(mean) >= 100 else 3
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


class Lab:
    """Trained networks and their scores by arm and seed, kept in a folder."""

    def __init__(self, folder: Path, steps: int | None, finetune_steps: int | None, clips: int):
        self.folder, self.steps, self.finetune_steps, self.clips = folder, steps, finetune_steps, clips

    def recipe(self, seed: int, arm: Arm | None = None):
        from mobilevd import params

        values = params.load(ROOT / "params.yaml").model_dump(mode="json")
        values |= {"seed": seed, "name": "claims"}
        values["evaluate"]["clips"] = self.clips
        for stage in ("distill", "prune", "funnel"):
            values[stage]["adversarial"] |= _steps(self.steps)
        values["finetune"] |= _steps(self.finetune_steps)
        if arm:
            _lay(values[arm.stage], arm.change)
            for stage, key in itertools.product(("prune", "funnel"), ("heads", "sigmas")):  # they go on with both
                values[stage]["adversarial"][key] = values["distill"]["adversarial"][key]
        return params.check(values, "benchmarks/claims.py")

    def made(self, stage: str, recipe, inputs: dict, seed: int | str):
        """The record of a stage, from its folder if it is there whole."""
        from mobilevd.artifacts import StageRecord

        home = self.folder / str(seed) / f"{stage}-{recipe.digest[:12]}"
        if not (home / "record.json").is_file():
            importlib.import_module(f"mobilevd.stages.{stage}").run(recipe, inputs, home).save(home / "record.json")
        return StageRecord.model_validate_json((home / "record.json").read_bytes())

    def trained(self, name: str, seed: int):
        """The record of an arm, and that of the clips. Funnels are put on the unpruned student, as in the paper."""
        arm, common = ARMS[name], self.recipe(seed)
        records = {"prepare": self.made("prepare", self.recipe(0), {}, "shared")}
        for stage in ("finetune", "distill"):
            if arm.stage != stage:
                records[stage] = self.made(stage, common, records, seed)
                continue
            return self.made(stage, self.recipe(seed, arm), records, seed), records["prepare"]
        records["prune"] = records["distill"]
        return self.made(arm.stage, self.recipe(seed, arm), records, seed), records["prepare"]

    def scores(self, name: str, seed: int) -> Scores:
        """Figures of an arm's one-step samples on the held-out clips."""
        record, prepared = self.trained(name, seed)
        path = Path(record.artifacts["network"].uri).parent / f"scores-{self.clips}.json"
        if not path.is_file():
            from mobilevd.artifacts import write_json

            write_json(path, self._scored(record, prepared, seed))
        return json.loads(path.read_text(encoding="utf-8"))

    def _scored(self, record, prepared, seed: int) -> Scores:
        import torch

        from mobilevd.evaluation import fvd, motion
        from mobilevd.method import surgery
        from mobilevd.stages import contenders
        from mobilevd.svd import base as bases
        from mobilevd.svd.conditioning import added_ids
        from mobilevd.svd.inference import arrange
        from mobilevd.svd.sampler import OneStep, clip_noise

        recipe, at = self.recipe(seed), self.recipe(seed).evaluate
        held, base = contenders.held_out(recipe, prepared), bases.load(recipe.base)
        one_step = OneStep(arrange(surgery.load(record.artifacts["network"].path, torch.float32)[0]))
        ids = added_ids(1, recipe.clip.fps, at.motion_bucket, at.augmentation_sigma)

        @torch.no_grad()
        def clip(k: int) -> torch.Tensor:
            noise = clip_noise([seed * 100_003 + held.numbers[k]], held.latents.shape[1:])
            return _bytes(base.decode(one_step(noise, held.image_latents[k : k + 1], held.tokens[k : k + 1], ids)))

        seen = _seen(torch.cat([clip(k) for k in range(len(held))]))
        real, near = self._references(held, base)
        return {
            "fvd": fvd.frechet(real["features"], seen["features"]),
            "fvd_to_reconstructed": fvd.frechet(near["features"], seen["features"]),
            "motion_ratio": motion.summary(seen, real)["motion_ratio"],
            "gflops": 1e3 * record.figures[f"{record.stage}.tflops"],
        }

    def _references(self, held, base) -> list[dict]:
        """Features and figures of the real clips, and of what the autoencoder makes of them."""
        import torch
        from safetensors.torch import load_file, save_file

        files = [self.folder / "shared" / f"{which}-{self.clips}.safetensors" for which in ("real", "near")]
        if not files[1].is_file():
            decoded = torch.cat([_bytes(base.decode(held.latents[k : k + 1])) for k in range(len(held))])
            for file, video in zip(files, (held.video, decoded), strict=True):
                save_file(_seen(video), file)
        return [load_file(file) for file in files]


def _seen(video) -> dict:
    from mobilevd.evaluation import i3d, motion

    return {"features": i3d.features(video, i3d.load(), "tf-reference")} | motion.per_clip(video)


def _bytes(pixels):
    return pixels.mul(255).round().byte()


def _steps(count: int | None) -> dict:
    """A training of that many steps, validated at its ends; none: as the recipe says."""
    return {} if count is None else {"steps": count, "validate_every": count}


def _lay(values: dict, change: dict) -> None:
    for key, value in change.items():
        if isinstance(value, dict):
            _lay(values[key], value)
        else:
            values[key] = value


if __name__ == "__main__":
    sys.exit(main())
