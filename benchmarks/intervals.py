"""Do the intervals keep their promise? Coverage, false alarms, bias: ``python benchmarks/intervals.py``

Features are Gaussian of D dimensions with a falling spectrum, or heavier-tailed; each generated clip belongs to a real
one or to none. Every rate is printed with its standard error; the exit code is 1 when one is off by more than it may.
"""

import argparse
import sys
import time

import torch

from mobilevd.evaluation import fvd, intervals

MAY_BE_OFF = 3.0  # points
ALARMS = 5.0  # percent
CASES = {  # name: dimensions, clips, tails, paired
    "paired, D 32": (32, (16, 64, 256), 0.0, True),
    "unpaired, D 32": (32, (16, 64), 0.0, False),
    "heavy tails, D 32": (32, (16, 64, 256), 0.3, True),
    "fewer clips than D 128": (128, (16, 64), 0.0, True),
}


def draw(
    n: int, d: int, tails: float, g: torch.Generator, far: float = 0.3, wide: float = 1.3
) -> tuple[torch.Tensor, ...]:
    """Real clips and two models' clips made from the same inputs, all [n d] in float64."""
    spectrum = torch.arange(1, d + 1, dtype=torch.float64).rsqrt()
    shared, *own = torch.randn(4, n, d, generator=g, dtype=torch.float64)
    shared = shared * torch.exp(tails * torch.randn(n, 1, generator=g, dtype=torch.float64))
    real, *models = (0.6 * shared + 0.8 * noise for noise in own)
    return real * spectrum, *((wide * model + far) * spectrum for model in models)


def coverage(d: int, n: int, tails: float, paired: bool, trials: int, samples: int, g: torch.Generator) -> list[bool]:
    """Whether each trial's interval holds the mean of the distance over all trials."""
    found = []
    for _ in range(trials):
        real, made, _ = draw(n, d, tails, g)
        made = made if paired else draw(n, d, tails, g)[1]
        found.append(intervals.interval(real, made, paired=paired, samples=samples, generator=g))
    truth = sum(one.value for one in found) / trials
    return [one.low <= truth <= one.high for one in found]


def alarms(d: int, n: int, tails: float, trials: int, samples: int, g: torch.Generator) -> list[bool]:
    """Whether two copies of one model, sampled with other seeds, are called different."""
    sets = (draw(n, d, tails, g) for _ in range(trials))
    return [intervals.difference(*s, paired=True, samples=samples, generator=g).excludes_zero for s in sets]


def rate(hits: list[bool]) -> tuple[float, float]:
    """Percent and its standard error."""
    p = sum(hits) / len(hits)
    return 100 * p, 100 * (p * (1 - p) / len(hits)) ** 0.5


def bias(trials: int, g: torch.Generator) -> None:
    """What the figure and its extrapolation come to over n, on sets whose distance is known."""
    d, spectrum = 32, torch.arange(1, 33, dtype=torch.float64).rsqrt()
    truth = ((0.3 * spectrum).square() + (0.3 * spectrum).square()).sum().item()  # of the means, of the widths
    for n in (16, 64, 256):
        sets = [draw(n, d, 0.0, g)[:2] for _ in range(trials)]
        measured = sum(fvd.frechet(a, b) for a, b in sets) / trials
        line = sum(intervals.curve(a, b, paired=True, generator=g).extrapolated for a, b in sets) / trials
        print(f"bias, D 32, n {n:3d}: measured {measured:.3f}, extrapolated {line:.3f}, at endless n {truth:.3f}")


def speed(g: torch.Generator) -> None:
    """The interval of 1000 samples on 2048 x 400 features."""
    a, b = torch.randn(2, 2048, 400, generator=g, dtype=torch.float64)
    began, busy = time.perf_counter(), time.process_time()
    intervals.interval(a, b + 0.1, samples=1000, generator=g)
    took, worked = time.perf_counter() - began, time.process_time() - busy
    print(f"interval of 1000 samples, 2048 x 400: {took:.2f} s, {worked:.2f} s of them on the processor")


def main() -> int:
    """Print every rate; returns 1 when a coverage or a rate of false alarms is beyond what is promised."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--trials", type=int, default=600)
    options.add_argument("--samples", type=int, default=400)
    given, g, bad = options.parse_args(), torch.Generator().manual_seed(0), 0
    torch.set_num_threads(1)
    for name, (d, sizes, tails, paired) in CASES.items():
        for n in sizes:
            covered, error = rate(coverage(d, n, tails, paired, given.trials, given.samples, g))
            off = abs(covered - 95.0) > MAY_BE_OFF + 2 * error
            print(f"{name}, n {n:3d}: covers {covered:.1f} ± {error:.1f} % of 95 %{' OFF' if off else ''}", flush=True)
            bad += off
    for n in (16, 64, 256):
        called, error = rate(alarms(32, n, 0.3, given.trials, given.samples, g))
        off = called > ALARMS + 2 * error
        print(f"one model twice, n {n:3d}: called different in {called:.1f} ± {error:.1f} %{' OFF' if off else ''}")
        bad += off
    bias(20, g)
    speed(g)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
