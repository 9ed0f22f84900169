"""Layers whose weights 8 bits do not hold: a few large numbers in a row leave the many small ones no levels.

**Source** one symmetric int8 scale per row (output channel) of a convolution or a linear layer · **Keeps** a network
that passes numbers through its channels beside learned weights near the float one (``tests/device/test_rows.py``).
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

from mobilevd.device.fidelity import EQUAL_DB

LEVELS, NO_NOISE = 127, 1e-30
LINEAR = ("Gemm", "MatMul")


class Row(NamedTuple):
    """The worst row of a layer's weights: how far 8 bits keep it above their own rounding."""

    layer: str
    weight: str
    db: float


def under(source: Path, lowest_db: float) -> list[Row]:
    """The layers of a float graph with a row that 8 bits hold at less than ``lowest_db``, the worst first.

    One weight is in memory at a time.
    """
    graph = onnx.load(source, load_external_data=False).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    folder, found = str(Path(source).parent), []
    for node, across in layers(graph):
        weight = numpy_helper.to_array(stored[node.input[1]], folder)
        found.append(Row(node.name, node.input[1], worst_db(np.moveaxis(weight, across, 0))))
    return sorted((row for row in found if row.db < lowest_db), key=lambda row: row.db)


def layers(graph: onnx.GraphProto) -> list[tuple[onnx.NodeProto, int]]:
    """The convolutions and linear layers with stored weights, each with the axis of its weights' output channels."""
    axes = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    weighted = [node for node in graph.node if len(node.input) > 1 and node.input[1] in axes]
    found = [
        node for node in weighted if node.op_type == "Conv" or (node.op_type in LINEAR and axes[node.input[1]] == 2)
    ]
    return [(node, 0 if node.op_type == "Conv" or _transposed(node) else 1) for node in found]


def _transposed(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


def worst_db(weight: np.ndarray) -> float:
    """The lowest SQNR in dB over the rows (first axis) in int8, each with its own scale; rows of zeros are whole."""
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    scale = np.abs(rows).max(1, keepdims=True) / LEVELS
    rows, scale = rows[scale[:, 0] > 0], scale[scale[:, 0] > 0]
    signal, noise = (rows**2).sum(1), ((rows - np.round(rows / scale) * scale) ** 2).sum(1)
    ratios = signal / np.maximum(noise, signal * NO_NOISE)
    return float(min(EQUAL_DB, 10 * np.log10(ratios.min(initial=np.inf))))
