"""How long one evaluation of every row of the paper's ladder takes on this machine's CPU, at full size, random weights.

Usage: python benchmarks/ladder.py [FILE] [--at-most N] [--readme] [--blocks]. Rows of one network share a measurement;
what FILE holds is not measured again, so that a run may be cut off, or go on later with N networks at a time. torch in
fp32, one forward each. --readme prints the README's table; --blocks times single blocks of SVD instead.
"""

import argparse
import json
import platform
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mobilevd.evaluation.cost import LADDER, PIXELS_PER_LATENT, Rung
from mobilevd.method import cross_attention
from mobilevd.stages import cost_tables, costs
from mobilevd.svd import reference
from mobilevd.svd.inference import arrange
from mobilevd.svd.unet import VideoUNet

WIDEST = ((320, 32, 64), (640, 16, 32))  # channels, height, width at 512x256
IDS = torch.tensor([[6.0, 127.0, 0.02]])  # 7 frames per second


def main() -> None:
    """Measure what is missing, then print the table of what is there."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("file", type=Path, nargs="?", default=Path("ladder.json"), help="default: ladder.json")
    options.add_argument("--at-most", type=int, default=len(LADDER), help="networks to measure now (default: all)")
    options.add_argument("--readme", action="store_true", help="print the README's table")
    options.add_argument("--blocks", action="store_true", help="time SVD's widest blocks, plain and folded, instead")
    given = options.parse_args()
    if given.blocks:
        print(json.dumps(blocks(), indent=2))
        return
    known = json.loads(given.file.read_text()) if given.file.is_file() else {}
    for rung in list(missing(known))[: given.at_most]:
        print(f"{rung.row} …", file=sys.stderr, flush=True)
        known |= {key(rung): measured(rung)}
        given.file.write_text(json.dumps(known, indent=2) + "\n")
    print("\n".join((readme if given.readme else table)(known)))


def key(rung: Rung) -> str:
    """The same for rows that differ by their training alone: the name of the first of them."""
    return next(other.row for other in LADDER if (other.edits, other.size) == (rung.edits, rung.size))


def missing(known: dict[str, dict]) -> Iterator[Rung]:
    """The networks without a measurement, the small ones first."""
    return (rung for rung in sorted(LADDER, key=lambda r: r.paper_tflops) if rung.row == key(rung) not in known)


def measured(rung: Rung) -> dict:
    """Seconds by the clock and of the processor of one forward, and the process's peak memory."""
    unet, given = arrange(built(rung)), inputs(rung)
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.inference_mode():  # weights made in here would be slower by up to three times
        output = unet(*given)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert output.isfinite().all(), rung.row
    return {
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "tflops": round(rung.cost.tflops, 2),
        "process_peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "threads": torch.get_num_threads(),
        "tools": f"torch {torch.__version__}, {platform.machine()}, {platform.system()}",
    }


def blocks() -> dict[str, dict[str, float]]:
    """SVD's attention blocks at the two widest levels, as they are and with cross-attention folded."""
    ways = {"SVD": [], "cross-attention folded": [cross_attention.apply]}
    return {
        f"{name}, level {k}": block(k, *WIDEST[k], edits) for k in range(len(WIDEST)) for name, edits in ways.items()
    }


def block(level: int, channels: int, height: int, width: int, edits: list) -> dict[str, float]:
    """GFLOPs of one attention block on 14 frames, and its seconds of the processor: the fewer of two forwards."""
    unet, spent = reference.unet(), []
    for edit in edits:
        edit(unet)
    network = filled(arrange(unet).down_blocks[level].attentions[0])
    frames = torch.randn(14, channels, height, width)
    given = {"encoder_hidden_states": torch.randn(14, 1, 1024), "image_only_indicator": torch.zeros(1, 14)}
    with torch.inference_mode(), FlopCounterMode(display=False) as counted:
        network(frames, **given)
    for _ in range(2):
        began = time.process_time()
        with torch.inference_mode():
            network(frames, **given)
        spent.append(time.process_time() - began)
    return {"gflops": round(counted.get_total_flops() / 1e9, 1), "cpu_s": round(min(spent), 2)}


def built(rung: Rung, seed: int = 0) -> VideoUNet:
    """SVD's network edited without weights, then filled with torch's own random start."""
    torch.manual_seed(seed)
    unet = reference.unet()
    for edit in rung.edits:
        edit(unet)
    return filled(unet)


@torch.no_grad()
def filled(network: nn.Module) -> nn.Module:
    """Room and random numbers for a network without weights."""
    for module in network.modules():
        module.to_empty(device="cpu", recurse=False)
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        else:
            for parameter in module.parameters(recurse=False):  # mix factors, folded cross-attention
                parameter.normal_(std=0.02)
    return network


def inputs(rung: Rung, seed: int = 1) -> tuple[torch.Tensor, ...]:
    """Noise and image latents of 14 frames, the noise level, one image token, the ids."""
    g, (width, height) = torch.Generator().manual_seed(seed), rung.size
    config, side = reference.UNET, PIXELS_PER_LATENT
    x = torch.randn(1, config["num_frames"], config["in_channels"], height // side, width // side, generator=g)
    return x, torch.tensor([1.6378]), torch.randn(1, 1, config["cross_attention_dim"], generator=g), IDS


def table(known: dict[str, dict]) -> list[str]:
    """Markdown: each row's seconds, and their share of the first measured row's; of the processor's, which others on
    the machine disturb less."""
    rows = [(rung.row, known[key(rung)]) for rung in LADDER if key(rung) in known]
    lines = [f"| row | TFLOPs | s of the processor | s by the clock | of {rows[0][0] if rows else 'the first row'} |"]
    lines.append("|---|---|---|---|---|")
    for row, one in rows:
        share = one["cpu_s"] / rows[0][1]["cpu_s"]
        lines.append(f"| {row} | {one['tflops']:.2f} | {one['cpu_s']} | {one['wall_s']} | {share:.3f} |")
    return lines


def readme(known: dict[str, dict]) -> list[str]:
    """What ``mobilevd cost --ladder --markdown`` prints, with seconds of the processor, and their share, at the end."""
    first = next((known[key(rung)]["cpu_s"] for rung in LADDER if key(rung) in known), None)
    seconds = [known.get(key(rung), {}).get("cpu_s") for rung in LADDER]
    cells = ["CPU, s", "---", *("–" if s is None else f"{s:.0f} ({s / first:.2f})" for s in seconds)]
    lines = cost_tables.ladder_markdown(costs.ladder_rows()).splitlines()
    return [f"{line} {cell} |".replace("| --- |", "|---|") for line, cell in zip(lines, cells, strict=True)]


if __name__ == "__main__":
    main()
