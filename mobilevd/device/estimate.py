"""An estimate of a phone's latency for nobody's phone at hand: never a measurement, never in a gate.

**Source** a roofline fitted by ``benchmarks/latency_fit.py`` on networks that Qualcomm AI Hub measured on a Snapdragon
8 Gen 3 (ai-hub-models 0.46.1, BSD-3): ms = factor(runtime) · (multiply-adds · rate(precision) + weight bytes · rate +
layers · rate(precision) + start). **Keeps** its interval beside every figure (``tests/device/test_estimate.py``).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mobilevd.errors import MobileVDError

DEVICE = "Snapdragon 8 Gen 3"
PRECISIONS = ("float", "w8a16", "w8a8")
RUNTIMES = ("compiled", "onnx", "tflite")  # compiled: QNN context binary, DLC, or one in an ONNX file
WEIGHT_BYTES = {"float": 2, "w8a16": 1, "w8a8": 1}
SHARE = 0.9  # of left-out networks between the interval's ends

# Printed by `python benchmarks/latency_fit.py FILE`: natural logarithms, in the order of ``log_ms``
COEFFICIENTS = (-1.0456, -1.6016, -2.1378, -8.3752, -5.9113, -5.3938, -6.6166, -1.5664, -0.237, -0.1447, -0.1455)
LEFT_OUT = (-0.3964, 0.9295)  # log(measured / estimated) of left-out networks: 5 % lie below, 5 % above


@dataclass(frozen=True)
class Estimate:
    """Milliseconds on a Snapdragon 8 Gen 3, and where 90 % of left-out networks lay around their estimates."""

    ms: float
    low_ms: float
    high_ms: float
    kind: Literal["estimate"] = "estimate"

    def __str__(self) -> str:
        return (
            f"estimate for {DEVICE}: {self.ms:.0f} ms ({self.low_ms:.0f} to {self.high_ms:.0f}); nothing was measured"
        )


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
    return Estimate(ms, ms * float(np.exp(LEFT_OUT[0])), ms * float(np.exp(LEFT_OUT[1])))


@dataclass(frozen=True)
class Amounts:
    """What an estimate is made from, read off a graph: 10⁹ multiply-adds, 10⁶ weights, operators, precision."""

    gmacs: float
    params_m: float
    layers: int
    precision: str


def amounts(path: Path) -> Amounts:
    """Count the graph at ``path``; its precision is that of its quantized activations, float where there are none.

    Errors: MobileVDError when there is no graph, or it is quantized in another way.
    """
    import onnx  # here, so that an estimate from plain numbers needs numpy alone

    from mobilevd.device import graph_cost
    from mobilevd.device.quantize import QDQ

    if not Path(path).is_file():
        raise MobileVDError("There is no graph", got=str(path), allowed="an ONNX file, or a bundle's folder")
    graph, shapes, types = graph_cost.load(Path(path))
    flops = sum(graph_cost.flops(node, shapes) for node in graph.node)
    weights = sum(int(np.prod(t.dims)) for t in graph.initializer if len(t.dims) > 1)
    quantized = {types[n.input[2]] for n in graph.node if n.op_type == QDQ[0]}  # the type of the zero point
    known = {onnx.TensorProto.UINT16: "w8a16", onnx.TensorProto.UINT8: "w8a8"}
    if strange := quantized - known.keys():
        got = ", ".join(onnx.TensorProto.DataType.Name(kind) for kind in strange)
        raise MobileVDError("No latency is known for these activations", got=got, allowed="UINT8, UINT16 or float")
    precision = next((name for kind, name in known.items() if kind in quantized), "float")
    layers = sum(node.op_type not in (*QDQ, "Constant") for node in graph.node)
    return Amounts(flops / 2e9, weights / 1e6, layers, precision)


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
