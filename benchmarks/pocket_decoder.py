"""The pocket decoder beside the best linear one for its latents, on a run's held-out clips.

``python benchmarks/pocket_decoder.py runs/TrainFlow/RUN`` (the first time it also fetches and renders the corpus; the
sample set is there by ``mobilevd sample-data``). A linear decoder sees 3x3 latents and is fitted in closed form on two
frames of 200 clips, on clean latents or on noisy ones, of a strength drawn evenly up to a limit as in training; all are
asked to decode clean latents. What eight numbers say, and what robustness to noise costs, can be read off.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pocket"))

import corpus
import pretrain

from mobilevd.artifacts import StageRecord
from mobilevd.evaluation import fvd, i3d, lpips
from mobilevd.params import load
from mobilevd.stages import contenders, sampling
from mobilevd.svd.base import Base

PATCH, SEEN, FRAMES = 16, 3, (0, 7)
NOISES = (0.0, 0.1, 0.3)
CLIPS = 200


def main() -> int:
    """Print PSNR, LPIPS and FVD of each decoder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of a run whose prepare stage is done")
    parser.add_argument("--recipe", type=Path, default=pretrain.project_root() / "params.yaml")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    record = StageRecord.model_validate_json((options.run / "prepare" / "record.json").read_bytes())
    base = Base(pretrain.BASE)
    if record.parents["base"] != base.digest:
        parser.error(f"{options.run} was prepared with another base than {base.folder}")
    told = compared(base, contenders.held_out(load(options.recipe), record))
    print(json.dumps(told, indent=2) if options.json else table(told))
    return 0


@torch.no_grad()
def compared(base: Base, held: contenders.Held) -> dict[str, dict[str, float]]:
    """Decoder → its figures."""
    ways = {"shipped": lambda latents: sampling.decoded(base, latents[None])[0]}
    ways |= {f"linear, noise up to {noise:g}": linear(base, noise) for noise in NOISES}
    extractor, looks = i3d.load(), lpips.load()
    real = _features(held.video, extractor)
    told = {}
    for name, decode in ways.items():
        made = torch.stack([decode(latents) for latents in held.latents])
        told[name] = {
            "psnr": _psnr(made, held.video),
            "lpips": torch.cat([_apart(looks, *pair) for pair in zip(made, held.video, strict=True)]).mean().item(),
            "fvd": fvd.frechet(real, _features(made, extractor)),
        }
    return told


def linear(base: Base, noise: float) -> Callable[[Tensor], Tensor]:
    """The least-squares map from 3x3 latents with up to ``noise`` on them to a patch of pixels."""
    generator = torch.Generator().manual_seed(0)
    paths = pretrain.make_corpus()
    among = torch.randperm(len(paths), generator=generator)[:CLIPS].tolist()
    squares, products = 0.0, 0.0
    for path in (paths[k] for k in among):
        clip = corpus.load(path)[list(FRAMES)]
        latents = base.encode(clip)["latents"].float()
        strength = noise * float(torch.rand(1, generator=generator))
        given = _columns(latents + strength * torch.randn(latents.shape, generator=generator)).double()
        wanted = F.pixel_unshuffle(clip.double() / 127.5 - 1, PATCH).movedim(1, -1).flatten(0, 2)
        squares, products = squares + given.T @ given, products + given.T @ wanted
    weight = torch.linalg.solve(squares + 1e-3 * torch.eye(len(squares)), products).float()

    def decode(latents: Tensor) -> Tensor:
        made = (_columns(latents) @ weight).unflatten(0, (len(latents), *latents.shape[-2:])).movedim(-1, 1)
        return ((F.pixel_shuffle(made, PATCH) + 1) * 127.5).clamp(0, 255).round().byte()

    return decode


def _columns(latents: Tensor) -> Tensor:
    """F C h w → one row per position: its 3x3 neighbours' latents, and 1."""
    seen = F.unfold(latents, SEEN, padding=SEEN // 2).movedim(1, -1).flatten(0, 1)
    return torch.cat([seen, torch.ones(len(seen), 1)], dim=1)


def _features(video: Tensor, extractor: i3d.I3D) -> Tensor:
    return torch.cat([i3d.features(clip[None], extractor, sampling.PREPROCESSING) for clip in video])


def _apart(looks: lpips.LPIPS, made: Tensor, real: Tensor) -> Tensor:
    return looks(made[::4] / 255, real[::4] / 255)


def _psnr(made: Tensor, real: Tensor) -> float:
    errors = (made.float() - real.float()).square().flatten(1).mean(1)
    return (10 * torch.log10(255**2 / errors)).mean().item()


def table(told: dict[str, dict[str, float]]) -> str:
    """One line per decoder."""
    return "\n".join(
        f"{name}: {seen['psnr']:.1f} dB, LPIPS {seen['lpips']:.3f}, FVD {seen['fvd']:.0f}"
        for name, seen in told.items()
    )


if __name__ == "__main__":
    sys.exit(main())
