"""FLOPs of every node of a graph, from its static shapes: what a fallback, or a block, is a share of.

**Source** 2 per multiply-add, attention products included, as in ``evaluation/cost.py``; elementwise work is free.
**Keeps** torch's own count of the network; what has no static shape is told, never counted as nothing in silence
(``tests/device/test_graph_cost.py``).
"""

from collections.abc import Mapping
from math import prod
from pathlib import Path

import onnx

QDQ = ("QuantizeLinear", "DequantizeLinear")
STANDARD, MICROSOFT = ("", "ai.onnx"), "com.microsoft"  # ONNX's own operators under both of its names, the runtime's

Shapes = Mapping[str, tuple[int, ...]]


def load(path: Path) -> tuple[onnx.GraphProto, dict[str, tuple[int, ...]], dict[str, int]]:
    """The graph without its external weights; name → shape, and name → ONNX type, of every tensor.

    A tensor whose shape is not static, or not known, is not among the shapes: see ``unsized``.
    """
    graph = _inferred(onnx.load(path, load_external_data=False))
    infos = _infos(graph)
    shapes = {name: tuple(d.dim_value for d in info.shape.dim) for name, info in infos.items() if _static(info)}
    types = {name: info.elem_type for name, info in infos.items() if info.elem_type}
    shapes |= {t.name: tuple(t.dims) for t in graph.initializer}
    types |= {t.name: t.data_type for t in graph.initializer}
    return graph, shapes, types


def flops(node: onnx.NodeProto, shapes: Shapes) -> int:
    """FLOPs of one node; zero for all but ONNX's convolutions and matrix products, and for one of ``unsized``."""
    if node.domain not in STANDARD or any(name not in shapes for name in (*node.input[:2], *node.output[:1])):
        return 0
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


def unsized(graph: onnx.GraphProto, shapes: Shapes) -> dict[str, str]:
    """Tensor that a node reads or writes → "shape not static" (an axis is open) or "shape not known" (nothing is)."""
    names = dict.fromkeys(name for node in graph.node for name in (*node.input, *node.output) if name)
    open_axes = {name for name, info in _infos(graph).items() if info.HasField("shape")}
    return {n: "shape not static" if n in open_axes else "shape not known" for n in names if n not in shapes}


def is_standard(node: onnx.NodeProto) -> bool:
    """Whether an operator is ONNX's own, or quantization as ONNX Runtime wrote it before ONNX had 16 bits."""
    return node.domain in STANDARD or (node.domain == MICROSOFT and node.op_type in QDQ)


def called(node: onnx.NodeProto) -> str:
    """The operator's name, with its domain where that is not ONNX's."""
    return node.op_type if node.domain in STANDARD else f"{node.domain}::{node.op_type}"


def _inferred(model: onnx.ModelProto) -> onnx.GraphProto:
    """With what shape inference finds; ONNX Runtime's quantization is ONNX's meanwhile, or it would stop there."""
    domains = [node.domain for node in model.graph.node]
    for node in model.graph.node:
        node.domain = "" if is_standard(node) else node.domain
    graph = onnx.shape_inference.infer_shapes(model).graph
    for node, domain in zip(graph.node, domains, strict=True):
        node.domain = domain
    return graph


def _infos(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto.Tensor]:
    """What is told of tensors' types and shapes; of what is no tensor (a sequence), nothing."""
    return {i.name: i.type.tensor_type for i in (*graph.input, *graph.value_info, *graph.output)}


def _static(info: onnx.TypeProto.Tensor) -> bool:
    """Every axis has a length (-1, which some exporters write, is none); a scalar has no axis, but a shape."""
    axes = info.shape.dim
    return info.HasField("shape") and all(axis.HasField("dim_value") and axis.dim_value >= 0 for axis in axes)
