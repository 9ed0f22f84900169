"""How near a perfect network would come: a run's held-out photographs once more, from the same view, otherwise moved.

``python benchmarks/pocket_reach.py runs/TrainFlow/RUN``: FVD to the real clips, and to the autoencoder's version of
them, of the first frame frozen, and of clips whose camera starts where the real one does and then goes as another draw
of chance has it; those as they are and through the autoencoder. A clip of a film is taken as it is, which flatters.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from mobilevd.artifacts import StageRecord
from mobilevd.evaluation import fvd, i3d
from mobilevd.packages import project_root
from mobilevd.params import Recipe, load
from mobilevd.progress import track
from mobilevd.settings import Clip
from mobilevd.stages import contenders, sampling
from mobilevd.svd import base as bases
from mobilevd.video import clips, manifest, render

DRAWS = 3


def main() -> None:
    """Print all distances, the cameras' as one per draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of a run whose prepare stage is done")
    parser.add_argument("--recipe", type=Path, default=project_root() / "params.yaml")
    options = parser.parse_args()
    recipe = load(options.recipe)
    record = StageRecord.model_validate_json((options.run / "prepare" / "record.json").read_bytes())
    base = bases.load(recipe.base)
    if record.parents["base"] != base.digest:
        parser.error(f"{options.run} was prepared with another base than {base.folder}")
    print(json.dumps(distances(recipe, base, record), indent=2))


def distances(recipe: Recipe, base: bases.Base, record: StageRecord) -> dict:
    """Set of clips → its FVD to the real ones, and to the autoencoder's."""
    held, net = contenders.held_out(recipe, record), i3d.load()
    table = manifest.joined([record.artifacts["clips"].read(manifest.CLIPS)])
    rows = [row for row in table.to_pylist() if row["split"] == "validation"]
    sources = [rows[number] for number in held.numbers]
    folder = project_root() / recipe.prepare.data

    def features(videos) -> Tensor:
        return torch.cat([i3d.features(video[None], net, sampling.PREPROCESSING) for video in videos])

    def through(latents: Tensor) -> Tensor:
        return sampling.decoded(base, latents[None].float())[0]

    real, near = features(held.video), features(map(through, held.latents))
    frozen = features(through(latents[:1].expand_as(latents)) for latents in held.latents)
    told = {"autoencoder": _apart(real, near, near), "frozen": _apart(real, near, frozen), "as they are": []}
    told["through the autoencoder"] = []
    for draw in track(range(DRAWS), DRAWS, "other cameras"):
        moved = [
            otherwise(folder / row["source"], row, recipe.clip, draw) if row["rendered"] else video
            for row, video in zip(sources, held.video, strict=True)
        ]
        told["as they are"].append(_apart(real, near, features(moved)))
        encoded = (base.encode(video)["latents"] for video in moved)
        told["through the autoencoder"].append(_apart(real, near, features(map(through, encoded))))
    return told


def otherwise(photo: Path, row: dict, clip: Clip, draw: int) -> Tensor:
    """The clip of ``row`` with its first view and what lies before it, and the motion of another seed."""
    pixels = clips.photograph(photo)
    seed = clips.seed_of(row["source_sha256"], int(row["clip_id"].rpartition("#")[2]))
    motion, first, generator = render.drawn(pixels, clip, seed)
    seed += 1 + draw
    while (other := render.drawn(pixels, clip, seed))[0] != motion and "parallax" in (motion, other[0]):
        seed += DRAWS
    return render.filmed(pixels, motion, _from(first, other[1]), clip, generator)


def _from(first: render.Camera, other: render.Camera) -> render.Camera:
    """The path of ``other``, begun where ``first`` begins and scaled to its view."""
    scale = first.width[0] / other.width[0]
    x, y = ((theirs - theirs[0]) * scale + own[0] for own, theirs in ((first.x, other.x), (first.y, other.y)))
    return render.Camera(x, y, other.width * scale, other.angle - other.angle[0] + first.angle[0])


def _apart(real: Tensor, near: Tensor, made: Tensor) -> dict[str, float]:
    return {"to real": round(fvd.frechet(real, made)), "to the autoencoder's": round(fvd.frechet(near, made))}


if __name__ == "__main__":
    main()
