"""What a device will say to a graph, before anything is compiled or uploaded: operators, shapes, types, sizes.

**Keeps** each limit of a target is named with its layer, and with what it costs in FLOPs to leave the NPU
(``tests/device/test_preflight.py``).
"""

from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import onnx
from onnx import TensorProto

from mobilevd.device import graph_cost
from mobilevd.device.graph_cost import QDQ
from mobilevd.device.targets import Limits, Target
from mobilevd.errors import EffectError

MB = 1e6
WHOLE = "the whole graph"
BITS = {"FLOAT": 32, "FLOAT16": 16, "BFLOAT16": 16, "DOUBLE": 64, "INT64": 64, "INT32": 32, "UINT32": 32, "INT16": 16}
QUANTIZE, DEQUANTIZE = QDQ
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
BITS |= {"UINT16": 16, "INT8": 8, "UINT8": 8, "BOOL": 8, "INT4": 4, "UINT4": 4}


@dataclass(frozen=True)
class Finding:
    """One thing that a target does not take; ``share`` of the graph's FLOPs then runs elsewhere."""

    layer: str
    what: str
    share: float = 0.0

    def __str__(self) -> str:
        return f"{self.layer}: {self.what}" + (f" ({self.share:.1%} of the FLOPs)" if self.share else "")


@dataclass(frozen=True)
class Preflight:
    """All findings for one graph on one target, the graph's size, and the share of its FLOPs off the NPU.

    A node that several findings are about is counted once in ``fallback_share``. Where a target takes open axes (the
    host), ``flops`` are those of layers with static shapes, and ``largest_tensor`` says how many tensors have none.
    """

    target: str
    graph_mb: float
    flops: int
    largest_tensor: str
    findings: list[Finding] = field(default_factory=list)
    fallback_share: float = 0.0

    def require(self) -> "Preflight":
        """Errors: EffectError that lists the findings."""
        if self.findings:
            shown = "; ".join(map(str, self.findings[:8])) + (" …" if len(self.findings) > 8 else "")
            raise EffectError(
                "The device would not take the graph as a whole",
                got=f"{len(self.findings)} findings, {self.fallback_share:.1%} of the FLOPs off the NPU: {shown}",
                allowed="nothing outside of the target's limits",
                where=self.target,
            )
        return self


def check(path: Path, target: Target) -> Preflight:
    """Hold the graph at ``path`` against the limits of ``target``; what is compiled for an NPU has static shapes."""
    graph, shapes, types = graph_cost.load(path)
    unsized = graph_cost.unsized(graph, shapes)
    one = _Quantized(graph, types).stands_for()
    cost = _Cost(graph, shapes, one)
    weights = sum(_bytes(tuple(tensor.dims), tensor.data_type) for tensor in graph.initializer)
    sizes = _sizes(graph, shapes, types, one)
    stored, forbidden = _stored(graph, types), {} if target.kind == "host" else unsized
    told = [_refused(n, shapes, types, stored, target.limits) or _unsized(n, forbidden) for n in graph.node]
    findings = [Finding(cost.layer(k), what, cost.share({k})) for k, what in enumerate(told) if what]
    off = {k for k, what in enumerate(told) if what}
    for name, what in _too_large(sizes, weights, target.limits).items():
        around = cost.around(name)
        findings.append(Finding(cost.maker(name), what, cost.share(around)))
        off |= around
    return Preflight(target.name, weights / MB, cost.whole, _largest(sizes, unsized), findings, cost.share(off))


class _Cost:
    """What nodes, by their number, are of the graph's FLOPs; ``one``: float tensor → the quantized one it is there."""

    def __init__(self, graph: onnx.GraphProto, shapes: graph_cost.Shapes, one: dict[str, str]):
        self._nodes, self._one = list(graph.node), one
        self._made = {name: k for k, node in enumerate(self._nodes) for name in node.output}
        self._flops = [graph_cost.flops(node, shapes) for node in self._nodes]
        self.whole = sum(self._flops)

    def share(self, numbers: set[int]) -> float:
        """Of the whole graph's; 0 where it has none."""
        return sum(self._flops[k] for k in numbers) / self.whole if self.whole else 0.0

    def layer(self, k: int) -> str:
        """The node's name."""
        return self._nodes[k].name or self._nodes[k].output[0]

    def around(self, tensor: str) -> set[int]:
        """The nodes that make or read a tensor, and leave the NPU with it; all of them for the whole graph."""
        names = {tensor, *(name for name, quantized in self._one.items() if quantized == tensor)}
        return {k for k, n in enumerate(self._nodes) if tensor == WHOLE or names & {*n.input, *n.output}}

    def maker(self, tensor: str) -> str:
        """The layer that makes a tensor, before its quantization, or its own name."""
        if tensor not in self._made:
            return tensor
        k = self._made[tensor]
        source = self._nodes[k].input[0] if self._nodes[k].input else ""
        return self.layer(self._made[source] if self._one.get(source) == tensor else k)


class _Quantized:
    """Which float tensors of a quantized graph are none on a device, where a layer between DequantizeLinear and
    QuantizeLinear is one operator on quantized tensors. What another layer reads or makes, and the border, is float.
    """

    def __init__(self, graph: onnx.GraphProto, types: dict[str, int]):
        self._nodes, self._types = list(graph.node), types
        self._border = {i.name for i in (*graph.input, *graph.output)} - {t.name for t in graph.initializer}
        self._made = {name: node for node in graph.node for name in node.output if node.op_type != "Constant"}
        self._read: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._read.setdefault(name, []).append(node)

    def stands_for(self) -> dict[str, str]:
        """Float tensor → the quantized one; of several that one tensor is quantized to, the first."""
        after = {
            n.output[0]: n.input[0] for n in self._nodes if n.op_type == DEQUANTIZE and self._only_read(n.output[0])
        }
        before = {n.input[0]: n.output[0] for n in reversed(self._nodes) if n.op_type == QUANTIZE}
        return {name: to for name, to in before.items() if self._is_layer(self._made.get(name))} | after

    def _only_read(self, name: str) -> bool:
        """A dequantized tensor that goes into quantized layers, or is quantized again, and nowhere else."""
        readers = self._read.get(name, ())
        return name not in self._border and all(n.op_type == QUANTIZE or self._is_layer(n) for n in readers)

    def _is_layer(self, node: onnx.NodeProto | None) -> bool:
        """All the float activations that it reads were dequantized (one at least); what it makes is quantized alone."""
        if node is None or node.op_type in QDQ:
            return False
        reads = [name for name in node.input if self._is_float(name) and (name in self._made or name in self._border)]
        makes = [name for name in node.output if self._is_float(name)]
        dequantized = [name in self._made and self._made[name].op_type == DEQUANTIZE for name in reads]
        return bool(reads) and all(dequantized) and all(map(self._ends, makes))

    def _ends(self, name: str) -> bool:
        """Nothing but QuantizeLinear reads it."""
        return name not in self._border and all(node.op_type == QUANTIZE for node in self._read.get(name, ()))

    def _is_float(self, name: str) -> bool:
        return bool(name) and self._types.get(name, TensorProto.FLOAT) in FLOATS


def _stored(graph: onnx.GraphProto, types: dict[str, int]) -> dict[str, str]:
    """Tensor → the type that it has in the file, before it is dequantized."""
    found = {name: TensorProto.DataType.Name(kind) for name, kind in types.items()}
    quantized = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    return found | {name: found[source] for name, source in quantized.items() if source in found}


def _refused(
    node: onnx.NodeProto, shapes: graph_cost.Shapes, types: dict[str, int], stored: dict[str, str], limits: Limits
) -> str:
    known = limits.operators is None or (graph_cost.is_standard(node) and node.op_type in limits.operators)
    if not known:
        return f"operator {graph_cost.called(node)} is not known there"
    names = [name for name in (*node.input, *node.output) if name in shapes]
    rank = max((len(shapes[name]) for name in names), default=0)
    if limits.max_rank is not None and rank > limits.max_rank:
        return f"{node.op_type} of rank {rank}, at most {limits.max_rank} there"
    kinds = {TensorProto.DataType.Name(types[name]) for name in names if name in types}
    if limits.types is not None and (strange := sorted(kinds - limits.types)):
        return f"{node.op_type} on {', '.join(strange)}, which is not known there"
    weights = stored.get(node.input[1]) if node.op_type == "LayerNormalization" else None
    if limits.norm_weights is not None and weights not in (None, *limits.norm_weights):
        return f"LayerNormalization with {weights} weights, {', '.join(sorted(limits.norm_weights))} there"
    return ""


def _unsized(node: onnx.NodeProto, unsized: dict[str, str]) -> str:
    """The first of a layer's tensors without a static shape."""
    return next((f"{unsized[name]} ({name})" for name in (*node.output, *node.input) if name in unsized), "")


def _sizes(
    graph: onnx.GraphProto, shapes: graph_cost.Shapes, types: dict[str, int], one: dict[str, str]
) -> dict[str, int]:
    """Bytes of what a device holds: not of what a quantizer left behind in the list of tensors, nor twice of one."""
    used = {name for node in graph.node for name in (*node.input, *node.output)}
    used |= {i.name for i in (*graph.input, *graph.output, *graph.initializer)}
    there = [name for name in shapes if name in types and name in used and name not in one]
    return {name: _bytes(shapes[name], types[name]) for name in there}


def _largest(sizes: dict[str, int], unsized: dict[str, str]) -> str:
    """The largest tensor with its size; how many have none."""
    name = max(sizes, key=sizes.__getitem__, default="")
    shown = f"{name} {sizes[name] / MB:.1f} MB" if name else "none"
    return shown + (f", of those with static shapes ({len(unsized)} have none)" if unsized else "")


def _too_large(sizes: dict[str, int], weights: int, limits: Limits) -> dict[str, str]:
    """Tensor, or the whole graph → what is too large about it."""
    text, found = "{:.0f} MB, at most {:.0f} MB there", {}
    if limits.tensor_bytes is not None:
        large = [name for name in sizes if sizes[name] > limits.tensor_bytes]
        found |= {name: text.format(sizes[name] / MB, limits.tensor_bytes / MB) for name in large}
    if limits.graph_bytes is not None and weights > limits.graph_bytes:
        found[WHOLE] = f"{weights / MB:.0f} MB of weights, at most {limits.graph_bytes / MB:.0f} MB there"
    return found


def _bytes(shape: tuple[int, ...], kind: int) -> int:
    return prod(shape) * BITS.get(TensorProto.DataType.Name(kind), 32) // 8
