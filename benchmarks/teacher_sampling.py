"""Where the teacher's sampling should start and end, and where it should be guided: a run's teacher otherwise sampled.

``python benchmarks/teacher_sampling.py runs/TrainFlow/RUN``: FVD to the held-out real clips, and to the autoencoder's
version of them, and motion (real = 1). First in one evaluation, untrained for it: from noise alone at σ_max,
and from the still clip at lower σ (``distill.still_start``); then in many, as recipe and base have it, as SVD has it
(σ_min 0.002, guided to the end), and with each change alone. ``--once`` leaves the many out.
"""

import argparse
import json
from pathlib import Path

import torch

from mobilevd.artifacts import StageRecord
from mobilevd.evaluation import fvd, i3d, motion
from mobilevd.method import still_start, surgery
from mobilevd.packages import project_root
from mobilevd.params import Recipe, load
from mobilevd.progress import track
from mobilevd.stages import contenders, sampling
from mobilevd.svd import base as bases
from mobilevd.svd.inference import arrange
from mobilevd.svd.sampler import OneStep, evaluations
from mobilevd.svd.scheduler import Schedule

STARTS = (None, 20.0, 5.0, 2.27)


def main() -> None:
    """Print every setting with its evaluations and distances, one line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run whose finetuning is done")
    parser.add_argument("--recipe", type=Path, default=project_root() / "params.yaml")
    parser.add_argument("--once", action="store_true", help="in one evaluation alone")
    options = parser.parse_args()
    recipe = load(options.recipe)
    inputs = {name: _record(options.run, name) for name in ("prepare", "finetune")}
    base = bases.load(recipe.base)
    if inputs["prepare"].parents["base"] != base.digest:
        parser.error(f"{options.run} was prepared with another base than {base.folder}")
    held, net = contenders.held_out(recipe, inputs["prepare"]), i3d.load()

    def features(video: torch.Tensor) -> torch.Tensor:
        return torch.cat([i3d.features(clip[None], net, sampling.PREPROCESSING) for clip in video])

    def decoded(latents: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([sampling.decoded(base, one) for one in latents])

    real, near = features(held.video), features(decoded(list(held.latents.split(1))))

    def say(told: dict, latents: list[torch.Tensor]) -> None:
        video = decoded(latents)
        made = features(video)
        told |= {"to real": round(fvd.frechet(real, made)), "to the autoencoder's": round(fvd.frechet(near, made))}
        told |= {"motion": round(motion.energy_ratio(video, held.video), 2)}
        print(json.dumps(told, ensure_ascii=False), flush=True)

    for sigma in STARTS:
        start = {"start": f"the still clip, σ {sigma:g}" if sigma else "noise, as SVD's"}
        say(start | {"evaluations": 1}, at_once(recipe, sigma, inputs["finetune"], held))
    for schedule, above in settings(base.schedule, recipe.evaluate.guidance_above) if not options.once else ():
        told = {"sigma_min": schedule.sigma_min, "guidance_above": above}
        told |= {"evaluations": evaluations(schedule, recipe.evaluate.teacher_steps, above)}
        say(told, sampled(_guided(recipe, above), schedule, inputs, held))


@torch.no_grad()
def at_once(recipe: Recipe, sigma: float | None, record: StageRecord, held: contenders.Held) -> list:
    """The teacher's latents in one evaluation from the still clip at ``sigma``, or from noise alone at σ_max."""
    unet, _ = surgery.load(record.artifacts["network"].path, torch.float32)
    if sigma:
        still_start.apply(unet, sigma, bases.scaling_factor(recipe.base))
    step = OneStep(arrange(unet))
    return [step(*contenders.asked(recipe, held, k)) for k in range(len(held))]


def settings(own: Schedule, above: float) -> list[tuple[Schedule, float]]:
    """The recipe's and the base's own first, SVD's second, then each of the two changes alone."""
    pairs = [(own, above), (Schedule(), 0.0), (own, 0.0), (Schedule(), above)]
    return list(dict.fromkeys(pairs))


def sampled(recipe: Recipe, schedule: Schedule, inputs: dict[str, StageRecord], held: contenders.Held) -> list:
    """The teacher's latents of every held-out clip, 1 F C H W each."""
    missing = dict.fromkeys(("distill", "prune", "funnel", "quantize"))  # loaded only where they are asked for
    make = contenders.makers(recipe, schedule, inputs | missing, held)["teacher"]()
    return [make(k) for k in track(range(len(held)), len(held), f"σ_min {schedule.sigma_min:g}")]


def _guided(recipe: Recipe, above: float) -> Recipe:
    return recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"guidance_above": above})})


def _record(run: Path, stage: str) -> StageRecord:
    return StageRecord.model_validate_json((run / stage / "record.json").read_bytes())


if __name__ == "__main__":
    main()
