"""Where quantization hurts: how far the quantized graph is from the float one inside each block of the network.

**Source** SQNR of the same layer's output in both graphs, noise of everything before it included, at up to SAMPLES
places spread over it: all of all layers at SVD's size would be many gigabytes · **Keeps** a disturbed block is the one
that is named (``tests/device/test_noise.py``).
"""

from math import gcd, prod
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from mobilevd.device import rows
from mobilevd.device.fidelity import sqnr_db
from mobilevd.device.session import open_session
from mobilevd.svd import kinds

SAMPLES = 1 << 16


def by_layer(source: Path, quantized: Path, feed: dict[str, np.ndarray]) -> dict[str, float]:
    """Convolution or linear layer → SQNR in dB of its output on ``feed``; the noisiest first."""
    shapes = _shapes(source)
    wanted, got = (_outputs(path, feed, shapes) for path in (source, quantized))
    return dict(sorted(((layer, sqnr_db(wanted[layer], got[layer])) for layer in wanted), key=lambda item: item[1]))


def blocks(layers: dict[str, float]) -> dict[str, float]:
    """Of layers, the noisiest first: block → its lowest."""
    found: dict[str, float] = {}
    for layer, value in layers.items():
        found.setdefault(block(layer), value)
    return found


def block(layer: str) -> str:
    """``unet.down_blocks.0.resnets.0.conv1/Conv`` → ``down_blocks.0``; ``unet.conv_in/Conv`` → ``conv_in``."""
    return kinds.block(layer.partition("/")[0].removeprefix("unet."))


def _shapes(source: Path) -> dict[str, tuple[int, ...]]:
    """Layer → shape of its output."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(source, load_external_data=False)).graph
    known = {info.name: info.type.tensor_type.shape.dim for info in (*graph.value_info, *graph.output)}
    return {node.name: tuple(d.dim_value for d in known[node.output[0]]) for node, _ in rows.layers(graph)}


def _outputs(path: Path, feed: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Name → samples of the output of every layer."""
    aside = Path(path).with_suffix(".observed.onnx")
    model = onnx.load(path, load_external_data=False)
    made = {node.name: node.output[0] for node in model.graph.node if node.name in shapes}
    del model.graph.output[:]
    names = [_sample(model.graph, made[layer], shapes[layer]) for layer in shapes]
    onnx.save(model, aside)
    try:
        return dict(zip(shapes, open_session(aside).run(names, feed), strict=True))
    finally:
        aside.unlink()


def _sample(graph: onnx.GraphProto, tensor: str, shape: tuple[int, ...]) -> str:
    """Numbers of a tensor at equal steps, as a new output; the step meets every place along the last axis."""
    step = -(-prod(shape) // SAMPLES)
    while gcd(step, shape[-1]) > 1:
        step += 1
    flat, seen = f"{tensor}::flat", f"{tensor}::samples"
    ends = {f"{seen}_{name}": value for name, value in {"from": 0, "to": prod(shape), "axis": 0, "step": step}.items()}
    graph.initializer.extend(helper.make_tensor(name, TensorProto.INT64, [1], [value]) for name, value in ends.items())
    graph.initializer.append(helper.make_tensor(f"{flat}_shape", TensorProto.INT64, [1], [-1]))
    graph.node.append(helper.make_node("Reshape", [tensor, f"{flat}_shape"], [flat]))
    graph.node.append(helper.make_node("Slice", [flat, *ends], [seen]))
    graph.output.append(helper.make_tensor_value_info(seen, TensorProto.FLOAT, None))
    return seen
