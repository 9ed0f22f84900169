"""Fit ``mobilevd/device/estimate.py`` on measured rows, and say how far it is off for networks it did not see.

The file has columns (model, precision, runtime, ms, gmac, params_m, unit, layers,
npu_layers; one file of Qualcomm AI Hub's measurements on a Snapdragon 8 Gen 3). Prints what estimate.py holds, and
which networks lie outside of its intervals.
"""

import argparse
import csv
import math
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from mobilevd.device import estimate
from mobilevd.device.estimate import Rows

COMPILED = ("qnn_context_binary", "qnn_dlc", "precompiled_qnn_onnx")
START = np.log([0.1, 0.1, 0.1, 0.02, 0.002, 0.002, 0.002, 0.1, 1.0, 1.0, 1.0])
RIDGE, CLIPPED = 0.05, 0.5  # how hard coefficients are held to START; beyond which log error a row weighs less
PAPER_MS, PAPER = 1780.0, {"gmacs": 4335 / 2, "params_m": 980.3, "layers": 3300, "precision": "w8a16"}


def read(path: Path) -> tuple[Rows, np.ndarray, np.ndarray]:
    """Counted networks that ran on the NPU as a whole: columns, log ms, and the family each is left out with."""
    with Path(path).open(encoding="utf-8") as stream:
        found = [row for row in csv.DictReader(stream) if row["gmac"] and row["params_m"] and row["unit"] == "NPU"]
    found = [row for row in found if row["layers"] == row["npu_layers"]]
    rows = estimate.features(
        [row["gmac"] for row in found],
        [row["params_m"] for row in found],
        [row["layers"] for row in found],
        [row["precision"].split("_mixed")[0] for row in found],
        ["compiled" if row["runtime"] in COMPILED else row["runtime"] for row in found],
    )
    diffusion = ("stable_diffusion", "controlnet")
    family = ["diffusion" if row["model"].startswith(diffusion) else row["model"] for row in found]
    return rows, np.log([float(row["ms"]) for row in found]), np.array(family)


def fit(rows: Rows, log_ms: np.ndarray) -> np.ndarray:
    """Coefficients of least clipped log error."""

    def errors(t: np.ndarray) -> np.ndarray:
        return np.concatenate([estimate.log_ms(t, rows) - log_ms, RIDGE * (t - START)])

    return least_squares(errors, START, loss="soft_l1", f_scale=CLIPPED).x


def left_out(rows: Rows, log_ms: np.ndarray, family: np.ndarray) -> np.ndarray:
    """log(measured / estimated) of every row, by a fit without its family."""
    errors = np.zeros(len(log_ms))
    for name in np.unique(family):
        without = fit(rows[family != name], log_ms[family != name])
        errors[family == name] = (log_ms - estimate.log_ms(without, rows))[family == name]
    return errors


def interval(errors: np.ndarray, family: np.ndarray) -> tuple[float, float]:
    """The ends that hold all errors of ``SHARE`` of the families: as many may lie below as above."""
    each = [errors[family == name] for name in np.unique(family)]
    spared = int(len(each) * (1 - estimate.SHARE) / 2 + 1e-9)
    lowest, highest = sorted(float(e.min()) for e in each), sorted(float(e.max()) for e in each)
    return lowest[spared], highest[-1 - spared]


def largest(rows: Rows) -> dict[str, tuple[float, ...]]:
    """Precision → the most that a fitted network has of every amount, rounded up."""
    found = {}
    for k, name in enumerate(estimate.PRECISIONS):
        most = (getattr(rows[rows.precision == k], amount).max() for amount in estimate.AMOUNTS)
        found[name] = tuple(math.ceil(10 * value) / 10 for value in most)
    return found


def main(path: Path) -> None:
    rows, log_ms, family = read(path)
    coefficients, errors = fit(rows, log_ms), left_out(rows, log_ms, family)
    typical = [np.median(np.abs(errors[family == name])) for name in np.unique(family)]
    half, most = np.exp(np.quantile(typical, [0.5, 0.9]))
    of_runtime = {name: rows.runtime == k for k, name in enumerate(estimate.RUNTIMES)}
    ends = {name: interval(errors[chosen], family[chosen]) for name, chosen in of_runtime.items()}
    every = len(path.read_text(encoding="utf-8").splitlines()) - 1
    print(
        f"{len(log_ms)} of {every} rows, {len(typical)} networks or families; one left out at a time, its median row:"
    )
    print(f"half of them are off by less than {half:.2f} times, nine in ten by less than {most:.2f} times")
    print("COEFFICIENTS =", tuple(round(float(c), 4) for c in coefficients))
    print("LEFT_OUT =", {name: tuple(round(end, 4) for end in both) for name, both in ends.items()})
    print("LARGEST =", largest(rows))
    for name, chosen in of_runtime.items():
        print_interval(name, ends[name], rows[chosen], log_ms[chosen], family[chosen], errors[chosen])
    print_examples(rows, log_ms, family, errors)


def print_interval(
    runtime: str, ends: tuple[float, float], rows: Rows, log_ms: np.ndarray, family: np.ndarray, errors: np.ndarray
) -> None:
    """A runtime's interval, and the measurements outside of it."""
    outside = np.flatnonzero((errors < ends[0]) | (errors > ends[1]))
    known, inside = len(np.unique(family)), len(np.unique(family)) - len(np.unique(family[outside]))
    low, high = np.exp(ends)
    print(f"{runtime}: {inside} of {known} lie whole between {low:.2f} and {high:.2f} times their estimates")
    for i in outside:
        ms, precision = np.exp(log_ms[i]), estimate.PRECISIONS[rows.precision[i]]
        print(f"  outside: {family[i]}, {precision}: measured {ms:.3g} ms, estimated {ms / np.exp(errors[i]):.3g} ms")


def print_examples(rows: Rows, log_ms: np.ndarray, family: np.ndarray, errors: np.ndarray) -> None:
    """MobileVD, and the largest networks that were measured."""
    for name in estimate.PRECISIONS:
        made = estimate.latency(**(PAPER | {"precision": name}))
        print(f"MobileVD at 14 x 512x256, {name}: {made}; the paper measured {PAPER_MS:.0f} ms")
    chosen = (family == "diffusion") & (rows.gmacs > 100)
    for ms, error in sorted(zip(np.exp(log_ms[chosen]), errors[chosen], strict=True)):
        print(
            f"a Stable Diffusion part: measured {ms:.0f} ms, estimated without its family {ms / np.exp(error):.0f} ms"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path, help="the measured rows, a CSV file")
    main(parser.parse_args().rows)
