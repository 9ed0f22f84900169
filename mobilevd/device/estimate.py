"""An estimate of a phone's latency for nobody's phone at hand: never a measurement, never in a gate.

**Source** a roofline fitted by ``benchmarks/latency_fit.py`` on networks that Qualcomm AI Hub measured on a Snapdragon
8 Gen 3 (ai-hub-models 0.46.1, BSD-3): ms = factor(runtime) · (multiply-adds · rate(precision) + weight bytes · rate +
layers · rate(precision) + start). **Keeps** its interval beside every figure, and that it is beyond what was measured
where it is (``tests/device/test_estimate.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mobilevd.errors import MobileVDError

DEVICE = "Snapdragon 8 Gen 3"
PRECISIONS = ("float", "w8a16", "w8a8")
RUNTIMES = ("compiled", "onnx", "tflite")  # compiled: QNN context binary, DLC, or one in an ONNX file
WEIGHT_BYTES = {"float": 2, "w8a16": 1, "w8a8": 1}
AMOUNTS = {"gmacs": "multiply-adds", "weights_mb": "weights", "layers": "layers"}  # columns of ``Rows``, and in words
SHARE = 0.9  # of left-out networks between the interval's ends, at least

# Printed by `python benchmarks/latency_fit.py FILE`: natural logarithms, in the order of ``log_ms``
COEFFICIENTS = (-1.0456, -1.6016, -2.1378, -8.3752, -5.9113, -5.3938, -6.6166, -1.5663, -0.237, -0.1447, -0.1455)
# log(measured / estimated) of left-out networks, by runtime
LEFT_OUT = {"compiled": (-0.3641, 0.9396), "onnx": (-0.3973, 0.5416), "tflite": (-0.5718, 3.7084)}
# The most that a fitted network has, by precision, in the order of ``AMOUNTS``
LARGEST = {"float": (180.4, 177.6, 1579.0), "w8a16": (1257.3, 866.0, 4807.0), "w8a8": (40.7, 88.8, 1631.0)}


@dataclass(frozen=True)
class Estimate:
    """Milliseconds on a Snapdragon 8 Gen 3, and where 90 % of left-out networks lay around their estimates.

    A network (or a family of them: Stable Diffusion's parts) counts once, and lies inside where all its measurements by
    this runtime do, in whatever precision. Every runtime has an interval of its own, for TFLite alone is slow at
    convolutions over time. Precisions share it: nine networks were measured in W8A16, and a tenth of nine is none;
    the network that misses by most without TFLite, VideoMAE, was measured in float alone.

    ``beyond``: amounts larger than those of any network that was fitted in this precision. Then the estimate is an
    extrapolation, and the interval, which is that of smaller networks, promises too much.
    """

    ms: float
    low_ms: float
    high_ms: float
    beyond: tuple[str, ...] = ()
    kind: Literal["estimate"] = "estimate"

    def __str__(self) -> str:
        told = f"estimate for {DEVICE}: {self.ms:.0f} ms ({self.low_ms:.0f} to {self.high_ms:.0f})"
        return "; ".join(filter(None, (told, extrapolated(self.beyond), "nothing was measured")))


def extrapolated(beyond: Sequence[str]) -> str:
    """``beyond`` in words; nothing where nothing is."""
    return f"extrapolated beyond the measured networks in {', '.join(map(AMOUNTS.get, beyond))}" if beyond else ""


def latency(gmacs: float, params_m: float, layers: int, precision: str, runtime: str = "compiled") -> Estimate:
    """Estimate one run of a network. Errors: MobileVDError for an unknown precision or runtime.

    Args:
        gmacs: 10⁹ multiply-adds. params_m: 10⁶ weights. layers: operators of the compiled graph.
    """
    for got, allowed, what in ((precision, PRECISIONS, "precision"), (runtime, RUNTIMES, "runtime")):
        if got not in allowed:
            raise MobileVDError(f"No latency is known for this {what}", got=got, allowed=", ".join(allowed))
    row = features([gmacs], [params_m], [layers], [precision], [runtime])
    ms = float(np.exp(log_ms(np.array(COEFFICIENTS), row))[0])
    low, high = (ms * float(np.exp(tail)) for tail in LEFT_OUT[runtime])
    largest = zip(AMOUNTS, LARGEST[precision], strict=True)
    return Estimate(ms, low, high, tuple(name for name, most in largest if getattr(row, name)[0] > most))


@dataclass(frozen=True)
class Amounts:
    """What an estimate is made from, read off a graph: 10⁹ multiply-adds, 10⁶ weights, operators, precision."""

    gmacs: float
    params_m: float
    layers: int
    precision: str


def amounts(path: Path) -> Amounts:
    """Count the graph at ``path``; its precision is that of its quantized activations, float where there are none.

    Errors: MobileVDError when there is no graph, its work cannot be counted, or it is quantized in another way.
    """
    from mobilevd.device import graph_cost  # here, so that an estimate from plain numbers needs numpy alone

    if not Path(path).is_file():
        raise MobileVDError("There is no graph", got=str(path), allowed="an ONNX file, or a bundle's folder")
    graph, shapes, types = graph_cost.load(Path(path))
    _require_counted(graph, shapes, str(path))
    flops = sum(graph_cost.flops(node, shapes) for node in graph.node)
    weights = sum(int(np.prod(t.dims)) for t in graph.initializer if len(t.dims) > 1)
    layers = sum(node.op_type not in (*graph_cost.QDQ, "Constant") for node in graph.node)
    return Amounts(flops / 2e9, weights / 1e6, layers, _precision(graph, types))


def _require_counted(graph, shapes, where: str) -> None:
    """Errors: MobileVDError for operators and shapes whose work nobody can count."""
    from mobilevd.device import graph_cost

    foreign = sorted({graph_cost.called(node) for node in graph.node if not graph_cost.is_standard(node)})
    if foreign:
        raise MobileVDError(
            "The work of these operators cannot be counted", got=", ".join(foreign), allowed="ONNX's own", where=where
        )
    unsized = [f"{name}: {what}" for name, what in graph_cost.unsized(graph, shapes).items()]
    if unsized:
        got = "; ".join(unsized[:4]) + (f"; … {len(unsized)} tensors in all" if len(unsized) > 4 else "")
        raise MobileVDError("The graph's work cannot be counted", got=got, allowed="static shapes", where=where)


def _precision(graph, types) -> str:
    """Of the quantized activations, by what QuantizeLinear makes (without a zero point: UINT8)."""
    from onnx import TensorProto

    from mobilevd.device.graph_cost import QDQ

    quantized = {types[node.output[0]] for node in graph.node if node.op_type == QDQ[0]}
    known = {TensorProto.UINT16: "w8a16", TensorProto.UINT8: "w8a8"}
    if strange := quantized - known.keys():
        got = ", ".join(TensorProto.DataType.Name(kind) for kind in strange)
        raise MobileVDError("No latency is known for these activations", got=got, allowed="UINT8, UINT16 or float")
    return next((name for kind, name in known.items() if kind in quantized), "float")


@dataclass(frozen=True)
class Rows:
    """Columns of networks: amounts, and the index of their precision and runtime."""

    gmacs: np.ndarray
    weights_mb: np.ndarray
    layers: np.ndarray
    precision: np.ndarray
    runtime: np.ndarray

    def __getitem__(self, which) -> "Rows":
        return Rows(*(column[which] for column in vars(self).values()))


def features(gmacs, params_m, layers, precision, runtime) -> Rows:
    """Columns of plain values as ``Rows``."""
    bytes_each = np.array([WEIGHT_BYTES[p] for p in precision])
    return Rows(
        np.array(gmacs, float),
        np.array(params_m, float) * bytes_each,
        np.array(layers, float),
        np.array([PRECISIONS.index(p) for p in precision]),
        np.array([RUNTIMES.index(r) for r in runtime]),
    )


def log_ms(coefficients: np.ndarray, rows: Rows) -> np.ndarray:
    """log of the roofline's ms; coefficients: 3 of multiply-adds, 1 of bytes, 3 of layers, start, 3 of runtimes."""
    compute, byte, layer, start, runtime = np.split(coefficients, (3, 4, 7, 8))
    ms = rows.gmacs * np.exp(compute)[rows.precision] + rows.weights_mb * np.exp(byte)
    ms = ms + rows.layers * np.exp(layer)[rows.precision] + np.exp(start)
    return np.log(ms) + runtime[rows.runtime]
