"""Convolutions whose weights 8 bits do not hold: a few large numbers in a row leave the many small ones no levels.

**Source** one symmetric int8 scale per row (output channel), as both quantizers choose it · **Keeps** a network that
passes numbers through its channels beside learned weights near the float one (``tests/device/test_rows.py``).
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

from mobilevd.device.fidelity import EQUAL_DB

LEVELS = 127


class Row(NamedTuple):
    """The worst row of a convolution's weights: how far 8 bits keep it above their own rounding."""

    layer: str
    weight: str
    db: float


def under(source: Path, lowest_db: float) -> list[Row]:
    """The convolutions of a float graph with a row that 8 bits hold at less than ``lowest_db``, the worst first.

    One weight is in memory at a time.
    """
    graph = onnx.load(source, load_external_data=False).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    layers = [node for node in graph.node if node.op_type == "Conv" and node.input[1] in stored]
    folder = str(Path(source).parent)
    found = [Row(n.name, n.input[1], worst_db(numpy_helper.to_array(stored[n.input[1]], folder))) for n in layers]
    return sorted((row for row in found if row.db < lowest_db), key=lambda row: row.db)


def worst_db(weight: np.ndarray) -> float:
    """The lowest SQNR in dB over the rows in int8, each with a scale of its own; rows of zeros are whole."""
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    scale = np.abs(rows).max(1, keepdims=True) / LEVELS
    rows, scale = rows[scale[:, 0] > 0], scale[scale[:, 0] > 0]
    noise = ((rows - np.round(rows / scale) * scale) ** 2).sum(1)
    ratios = (rows**2).sum(1) / np.maximum(noise, np.finfo(float).tiny)
    return float(min(EQUAL_DB, 10 * np.log10(ratios.min(initial=np.inf))))
