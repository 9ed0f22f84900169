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
BITS = {"FLOAT": 32, "FLOAT16": 16, "BFLOAT16": 16, "DOUBLE": 64, "INT64": 64, "INT32": 32, "UINT32": 32, "INT16": 16}
BITS |= {"UINT16": 16, "INT8": 8, "UINT8": 8, "BOOL": 8, "INT4": 4, "UINT4": 4}


@dataclass(frozen=True)
class Finding:
    """One thing that a target does not take; ``share`` of the graph's FLOPs then runs elsewhere, 0 for a size."""

    layer: str
    what: str
    share: float = 0.0

    def __str__(self) -> str:
        return f"{self.layer}: {self.what}" + (f" ({self.share:.1%} of the FLOPs)" if self.share else "")


@dataclass(frozen=True)
class Preflight:
    """All findings for one graph on one target, and the graph's size."""

    target: str
    graph_mb: float
    flops: int
    largest_tensor: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def fallback_share(self) -> float:
        """Share of the FLOPs in nodes that would not run on the NPU."""
        return sum((finding.share for finding in self.findings), 0.0)

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
    counted = [(node, graph_cost.flops(node, shapes)) for node in graph.node]
    whole = sum(count for _, count in counted)
    weights = sum(_bytes(tuple(tensor.dims), tensor.data_type) for tensor in graph.initializer)
    findings = [
        Finding(node.name or node.output[0], what, count / whole if whole else 0.0)
        for node, count in counted
        if (what := _refused(node, shapes, types, target.limits))
    ]
    sizes = {name: _bytes(shapes[name], types[name]) for name in shapes if name in types}
    findings += _too_large(graph, sizes, weights, target.limits)
    largest = max(sizes, key=sizes.__getitem__)
    return Preflight(target.name, weights / MB, whole, f"{largest} {sizes[largest] / MB:.1f} MB", findings)


def _refused(node: onnx.NodeProto, shapes: graph_cost.Shapes, types: dict[str, int], limits: Limits) -> str:
    if limits.operators is not None and node.op_type not in limits.operators:
        return f"operator {node.op_type} is not known there"
    names = [name for name in (*node.input, *node.output) if name in shapes]
    rank = max((len(shapes[name]) for name in names), default=0)
    if limits.max_rank is not None and rank > limits.max_rank:
        return f"{node.op_type} of rank {rank}, at most {limits.max_rank} there"
    kinds = {TensorProto.DataType.Name(types[name]) for name in names if name in types}
    if limits.types is not None and (strange := sorted(kinds - limits.types)):
        return f"{node.op_type} on {', '.join(strange)}, which is not known there"
    return ""


def _too_large(graph: onnx.GraphProto, sizes: dict[str, int], weights: int, limits: Limits) -> list[Finding]:
    made = {output: node.name for node in graph.node for output in node.output}
    found = []
    if limits.tensor_bytes is not None:
        large = [name for name in sizes if sizes[name] > limits.tensor_bytes]
        text = "{:.0f} MB, at most {:.0f} MB there"
        found += [Finding(made.get(n, n), text.format(sizes[n] / MB, limits.tensor_bytes / MB)) for n in large]
    if limits.graph_bytes is not None and weights > limits.graph_bytes:
        what = f"{weights / MB:.0f} MB of weights, at most {limits.graph_bytes / MB:.0f} MB there"
        found.append(Finding("the whole graph", what))
    return found


def _bytes(shape: tuple[int, ...], kind: int) -> int:
    return prod(shape) * BITS.get(TensorProto.DataType.Name(kind), 32) // 8
