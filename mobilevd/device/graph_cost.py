"""FLOPs of every node of a graph, from its static shapes: what a fallback, or a block, is a share of.

**Source** 2 per multiply-add, attention products included, as in ``evaluation/cost.py``; elementwise work is free.
**Keeps** torch's own count of the network (``tests/device/test_preflight.py``).
"""

from collections.abc import Mapping
from math import prod
from pathlib import Path

import onnx

SAME_SHAPE = ("QuantizeLinear", "DequantizeLinear")

Shapes = Mapping[str, tuple[int, ...]]


def load(path: Path) -> tuple[onnx.GraphProto, dict[str, tuple[int, ...]], dict[str, int]]:
    """The graph without its external weights; name → shape, and name → ONNX type, of every tensor."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False)).graph
    infos = [*graph.input, *graph.value_info, *graph.output]
    shapes = {i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in infos}
    types = {i.name: i.type.tensor_type.elem_type for i in infos}
    shapes |= {t.name: tuple(t.dims) for t in graph.initializer}
    types |= {t.name: t.data_type for t in graph.initializer}
    for node in graph.node:
        if node.op_type in SAME_SHAPE and node.input[0] in shapes:  # of a domain that shape inference does not know
            shapes[node.output[0]] = shapes[node.input[0]]
            other = node.input[2 if node.op_type == "QuantizeLinear" else 1]
            types.setdefault(node.output[0], types[other])
    return graph, shapes, types


def flops(node: onnx.NodeProto, shapes: Shapes) -> int:
    """FLOPs of one node; zero for all but convolutions and matrix products."""
    if node.op_type == "Conv":
        return 2 * prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type == "ConvTranspose":
        return 2 * prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type == "MatMul":
        return 2 * prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if node.op_type == "Gemm":
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return 2 * prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]
    return 0
