"""Where the teacher's sampling should end, and down to where it should be guided: a run's teacher otherwise sampled.

``python benchmarks/teacher_sampling.py runs/TrainFlow/RUN``: FVD to the held-out real clips, and to the autoencoder's
version of them, as recipe and base have it, as SVD has it (σ_min 0.002, guided to the end), and with each change alone.
"""

import argparse
import json
from pathlib import Path

import torch

from mobilevd.artifacts import StageRecord
from mobilevd.evaluation import fvd, i3d
from mobilevd.packages import project_root
from mobilevd.params import Recipe, load
from mobilevd.progress import track
from mobilevd.stages import contenders, sampling
from mobilevd.svd import base as bases
from mobilevd.svd.sampler import evaluations
from mobilevd.svd.scheduler import Schedule


def main() -> None:
    """Print every setting with its evaluations and distances, one line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run whose finetuning is done")
    parser.add_argument("--recipe", type=Path, default=project_root() / "params.yaml")
    options = parser.parse_args()
    recipe = load(options.recipe)
    inputs = {name: _record(options.run, name) for name in ("prepare", "finetune")}
    base = bases.load(recipe.base)
    if inputs["prepare"].parents["base"] != base.digest:
        parser.error(f"{options.run} was prepared with another base than {base.folder}")
    held, net = contenders.held_out(recipe, inputs["prepare"]), i3d.load()

    def features(latents: list[torch.Tensor]) -> torch.Tensor:
        videos = (sampling.decoded(base, one) for one in latents)
        return torch.cat([i3d.features(video, net, sampling.PREPROCESSING) for video in videos])

    real = torch.cat([i3d.features(video[None], net, sampling.PREPROCESSING) for video in held.video])
    near = features(list(held.latents.split(1)))
    for schedule, above in settings(base.schedule, recipe.evaluate.guidance_above):
        made = features(sampled(_guided(recipe, above), schedule, inputs, held))
        told = {"sigma_min": schedule.sigma_min, "guidance_above": above}
        told |= {"evaluations": evaluations(schedule, recipe.evaluate.teacher_steps, above)}
        told |= {"to real": round(fvd.frechet(real, made)), "to the autoencoder's": round(fvd.frechet(near, made))}
        print(json.dumps(told), flush=True)


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
