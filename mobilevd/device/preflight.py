"""What a device will say to a graph, before anything is compiled or uploaded: operators, ranks, types, sizes.

**Keeps** each limit of a target is named with its layer, and with what it costs in FLOPs to leave the NPU
(``tests/device/test_preflight.py``).
"""

from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import onnx
from onnx import TensorProto

from mobilevd.device import graph_cost
from mobilevd.device.targets import Limits, Target
from mobilevd.errors import EffectError

MB = 1e6
WHOLE = "the whole graph"
BITS = {"FLOAT": 32, "FLOAT16": 16, "BFLOAT16": 16, "DOUBLE": 64, "INT64": 64, "INT32": 32, "UINT32": 32, "INT16": 16}
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

    A node that several findings are about is counted once in ``fallback_share``.
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
    """Hold the graph at ``path`` against the limits of ``target``."""
    graph, shapes, types = graph_cost.load(path)
    cost = _Cost(graph, shapes)
    weights = sum(_bytes(tuple(tensor.dims), tensor.data_type) for tensor in graph.initializer)
    stored = _stored(graph, types)
    refused = {k: _refused(node, shapes, types, stored, target.limits) for k, node in enumerate(graph.node)}
    off = {k for k, what in refused.items() if what}
    findings = [Finding(cost.layer(k), refused[k], cost.share({k})) for k in sorted(off)]
    sizes = {name: _bytes(shapes[name], types[name]) for name in shapes if name in types}
    for name, what in _too_large(sizes, weights, target.limits).items():
        around = cost.around(name)
        findings.append(Finding(cost.maker(name), what, cost.share(around)))
        off |= around
    largest = max(sizes, key=sizes.__getitem__)
    shown = f"{largest} {sizes[largest] / MB:.1f} MB"
    return Preflight(target.name, weights / MB, cost.whole, shown, findings, cost.share(off))


class _Cost:
    """What nodes, by their number, are of the graph's FLOPs."""

    def __init__(self, graph: onnx.GraphProto, shapes: graph_cost.Shapes):
        self._nodes = list(graph.node)
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
        return {k for k, n in enumerate(self._nodes) if tensor == WHOLE or tensor in (*n.input, *n.output)}

    def maker(self, tensor: str) -> str:
        """The layer that makes a tensor, or its own name."""
        return next((node.name for node in self._nodes if tensor in node.output), tensor)


def _stored(graph: onnx.GraphProto, types: dict[str, int]) -> dict[str, str]:
    """Tensor → the type that it has in the file, before it is dequantized."""
    found = {name: TensorProto.DataType.Name(kind) for name, kind in types.items()}
    quantized = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    return found | {name: found[source] for name, source in quantized.items() if source in found}


def _refused(
    node: onnx.NodeProto, shapes: graph_cost.Shapes, types: dict[str, int], stored: dict[str, str], limits: Limits
) -> str:
    if limits.operators is not None and node.op_type not in limits.operators:
        return f"operator {node.op_type} is not known there"
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
