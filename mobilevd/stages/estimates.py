"""Latency estimates for a phone that nobody has at hand: of every graph of a model, from what can be counted in it.

**Keeps** an estimate is called one, with its interval, and is no figure of any record
(``tests/stages/test_estimates.py``).
"""

from dataclasses import asdict
from pathlib import Path

from mobilevd.device import animate, estimate
from mobilevd.stages import models

NETWORKS = tuple(f"{animate.NETWORKS}/{name}" for name in (animate.QUANTIZED, animate.FLOAT))


def rows(model: str, runtime: str) -> list[dict]:
    """One row per graph of ``model`` (an ONNX file, a bundle, or a phone's bundle): amounts, estimate, interval.

    The rows are no sum: a clip takes one of the networks, both encoders and the decoder, but intervals do not add.

    Errors: MobileVDError when there is no graph, its work cannot be counted, or nothing is known of its precision or of
    ``runtime``.
    """
    found = []
    for path in _graphs(model):
        seen = estimate.amounts(path)
        guess = estimate.latency(seen.gmacs, seen.params_m, seen.layers, seen.precision, runtime)
        found.append({"graph": path.name, "device": estimate.DEVICE, **asdict(seen), **asdict(guess)})
    return found


def shown(found: list[dict]) -> list[dict]:
    """The rows for a terminal."""
    return [
        {
            "graph": row["graph"],
            "precision": row["precision"],
            "GMACs": row["gmacs"],
            "params, M": row["params_m"],
            "layers": row["layers"],
            "estimate, ms": f"{row['ms']:.3g} ({row['low_ms']:.3g} to {row['high_ms']:.3g})",
        }
        for row in found
    ]


def lines(found: list[dict]) -> list[str]:
    """Which rows lie beyond what was measured."""
    return [f"{row['graph']}: {estimate.extrapolated(row['beyond'])}" for row in found if row["beyond"]]


def _graphs(model: str) -> list[Path]:
    if model.endswith(".onnx"):
        return [Path(model)]
    folder = models.folder(model, "MODEL")
    there = [folder / name for name in NETWORKS if (folder / name).is_file()]  # a phone bundle has no float graph
    return there + sorted((folder / animate.ENDS).glob("*.onnx")) or [folder / NETWORKS[0]]
