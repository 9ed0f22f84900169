"""How much of the pocket network's output each start of a funnel keeps, at equal FLOPs, with no training after.

``python benchmarks/funnels.py [--json]``
"""

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from mobilevd.evaluation.cost import count
from mobilevd.method import channel_funnel, data_aware, truncated_svd
from mobilevd.settings import Clip
from mobilevd.svd import base as bases
from mobilevd.svd.affine_pairs import self_attentions
from mobilevd.svd.conditioning import added_ids
from mobilevd.svd.edm import conditioned, precondition
from mobilevd.video.clips import photograph
from mobilevd.video.render import render

PHOTOS = Path(__file__).resolve().parents[1] / "data" / "photos"
CALIBRATION, HELD_OUT = ("coffee.png", "brick.png", "chelsea.png"), ("astronaut.png", "rocket.jpg")
SIGMAS, FACTORS = (1.0, 10.0, 700.0), (0.25, 0.5, 0.75)
CLIP = Clip()
Inputs = tuple[Tensor, ...]


def main() -> None:
    """Measure every start at every fun-factor and print a table, or JSON."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", action="store_true", help="rows as JSON")
    options.add_argument("--where", choices=("spatial", "temporal", "all"), default="all", help="which self-attentions")
    given = options.parse_args()
    rows = measure(given.where)
    print(json.dumps(rows, indent=2) if given.json else table(rows))


def measure(where: str) -> list[dict]:
    """One row per fun-factor and start: GFLOPs of one evaluation, relative output error at every σ of ``SIGMAS``."""
    base = bases.load(bases.POCKET)
    unet = base.unet().eval().requires_grad_(False)
    seen_inputs, inputs = evaluations(base, CALIBRATION, 0), evaluations(base, HELD_OUT, 100)
    calls = [lambda given=given: unet(*given) for given in seen_inputs]
    seen = data_aware.watch(self_attentions(unet, where), calls, torch.Generator().manual_seed(0))
    shape = (1, *inputs[0][0].shape[1:2], unet.config.out_channels, *inputs[0][0].shape[3:])
    with torch.no_grad():
        outputs = [unet(*given) for given in inputs]
        return [
            row(name, r, start, unet, shape, inputs, outputs)
            for r in FACTORS
            for name, start in starts(unet, where, r, seen, shape).items()
        ]


def starts(unet: nn.Module, where: str, r: float, seen: dict, shape: tuple) -> dict[str, Callable]:
    """What to do to a copy of the network, by name."""
    attach, random = channel_funnel.attach, torch.Generator().manual_seed(1)
    pairs, ranks = data_aware.pairs(seen), data_aware.ranks(seen, r)
    return {
        "He": lambda u: (attach(u, r, where, "he", random), channel_funnel.merge(u)),
        "truncated SVD": lambda u: truncated_svd.apply(u, truncation(unet, where, r, shape), where),
        "CSI": lambda u: (attach(u, r, where, "csi"), channel_funnel.merge(u)),
        "data-aware CSI": lambda u: (attach(u, r, where, "csi", None, pairs), channel_funnel.merge(u)),
        "data-aware CSI, ranks": lambda u: (attach(u, r, where, "csi", None, pairs, ranks), channel_funnel.merge(u)),
    }


def truncation(unet: nn.Module, where: str, r: float, shape: tuple) -> float:
    """The largest share of the ranks that costs no more than funnels of r; where none does, rank 1, the cheapest."""
    narrowed = lambda edit, share: (u := copy.deepcopy(unet), edit(u, share, where), count(u, shape).tflops)[2]  # noqa: E731
    budget, steps = narrowed(channel_funnel.narrow, r), 96
    low, high = 1, steps
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if narrowed(truncated_svd.narrow, middle / steps) <= budget else (low, middle)
    return low / steps


def row(
    name: str, r: float, start: Callable, unet: nn.Module, shape: tuple, inputs: list[Inputs], outputs: list
) -> dict:
    """GFLOPs and errors of one start."""
    edited = copy.deepcopy(unet)
    start(edited)
    errors = [[] for _ in SIGMAS]
    for index, (given, output) in enumerate(zip(inputs, outputs, strict=True)):
        errors[index % len(SIGMAS)].append(float((edited(*given) - output).norm() / output.norm()))
    means = [sum(values) / len(values) for values in errors]
    return {"r": r, "start": name, "gflops": 1e3 * count(edited, shape).tflops, "errors": means}


def evaluations(base: bases.Base, photos: tuple[str, ...], seed: int) -> list[Inputs]:
    """The network's inputs for one rendered clip of each photograph at every σ, σ running fastest."""
    random, made = torch.Generator().manual_seed(seed), []
    for index, photo in enumerate(photos):
        video, _ = render(photograph(PHOTOS / photo), CLIP, seed + index)
        latents, image, token = (value.float()[None] for value in base.encode(video).values())
        for level in SIGMAS:
            at = precondition(torch.tensor([level]))
            noisy = at.c_in * (latents + level * torch.randn(latents.shape, generator=random))
            made.append((conditioned(noisy, image), at.c_noise, token, added_ids(1, CLIP.fps, 127, 0.02)))
    return made


def table(rows: list[dict]) -> str:
    """Markdown, one row per start."""
    lines = [
        "| r | start | GFLOPs | " + " | ".join(f"σ = {s:g}" for s in SIGMAS) + " |",
        "|---" * (3 + len(SIGMAS)) + "|",
    ]
    for item in rows:
        errors = " | ".join(f"{error:.4f}" for error in item["errors"])
        lines.append(f"| {item['r']:g} | {item['start']} | {item['gflops']:.2f} | {errors} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
