"""Every traced millisecond to the layer that spent it: by block of the network, and by kind of layer.

**Source** the runtime's own trace, or a phone's list of layers; the exporter names each node after its module.
**Keeps** the parts add up to the whole trace; what no layer asked for is said to be outside of them
(``tests/device/test_rollup.py``).
"""

from collections import Counter
from collections.abc import Callable, Iterable

import onnx

from mobilevd.device.quantize import QDQ
from mobilevd.svd import kinds

KERNEL = "_kernel_time"
OUTSIDE = "outside of layers"  # the runtime's conversions of layout, the graph's own first and last operators
BLOCKED = "_nchwc"  # how the runtime names a convolution that it moved to its blocked layout, after the output


def kernels(events: Iterable[dict]) -> list[tuple[str, str, float]]:
    """Name, operator type and ms of every kernel in a trace of ONNX Runtime."""
    found = kernel_events(events)
    return [(e["name"].removesuffix(KERNEL), e["args"]["op_name"], e["dur"] / 1e3) for e in found]


def kernel_events(events: Iterable[dict]) -> list[dict]:
    """The events of a trace that are kernels' runs."""
    return [e for e in events if e.get("cat") == "Node" and e["name"].endswith(KERNEL)]


def one_run(events: Iterable[dict], runs: int) -> list[tuple[str, float]]:
    """Name of every kernel in a trace of ``runs`` runs, and its share of one run in ms."""
    return [(name, ms / runs) for name, _, ms in kernels(events)]


def by_kind(times: Iterable[tuple[str, float]], graph: onnx.GraphProto) -> dict[str, float]:
    """Kind of layer → ms of the named parts of one run, the slowest first."""
    return _rolled(times, graph, kinds.kind)


def by_block(times: Iterable[tuple[str, float]], graph: onnx.GraphProto) -> dict[str, float]:
    """Block of the network → ms of the named parts of one run, in the network's order."""
    found = _rolled(times, graph, kinds.block)
    ends = {kinds.block(layer): k for k, node in enumerate(graph.node) if (layer := _layer(node.name))}
    order = sorted(ends, key=ends.__getitem__)  # by their last nodes: the exporter puts what needs no image first
    return {name: found[name] for name in (*order, OUTSIDE) if name in found}


def told(times: Iterable[tuple[str, float]], graph: onnx.GraphProto) -> dict[str, dict[str, float]]:
    """``kinds`` and ``blocks`` of one run on a phone; nothing where most of its time is no layer's of ours.

    An NPU's provider runs its partition as one kernel, and a compiler may give its own names.
    """
    found = {"kinds": by_kind(times := list(times), graph), "blocks": by_block(times, graph)}
    known = found["blocks"].get(OUTSIDE, 0.0) <= sum(found["blocks"].values()) / 2
    return found if known else {}


def _rolled(times: Iterable[tuple[str, float]], graph: onnx.GraphProto, part: Callable[[str], str]) -> dict[str, float]:
    layers, ms = _Layers(graph), Counter()
    for name, time in times:
        layer = layers.of(name)
        ms[part(layer) if layer else OUTSIDE] += time
    return dict(ms.most_common())


class _Layers:
    """The layer that a kernel works for: by its node's name, a fusion's, or the tensor that it makes."""

    def __init__(self, graph: onnx.GraphProto):
        self._graph = graph
        self._made = {output: node for node in graph.node for output in node.output}
        self._read = {name: node for node in reversed(graph.node) for name in node.input}
        self._nodes = {node.name: node for node in graph.node}

    def of(self, kernel: str) -> str:
        """The module's name; empty where there is none."""
        node = self._made.get(kernel.removesuffix(BLOCKED))
        while node is None and kernel:  # a fusion's or a copy's name goes on after that of its node
            node, kernel = self._nodes.get(kernel), kernel.rpartition("/")[0]
        if node is None:
            return ""
        readers_first = node.op_type == QDQ[1]
        node = self._asking(node, readers_first) or self._asking(node, not readers_first)
        return _layer(node.name) if node is not None else ""

    def _asking(self, node: onnx.NodeProto | None, readers: bool) -> onnx.NodeProto | None:
        """The nearest node with a module's name, where the node's values go to, or come from."""
        while node is not None and (node.op_type in QDQ or "/" not in node.name):
            node = self._read.get(node.output[0]) if readers else self._made.get(node.input[0])
        return node


def _layer(name: str) -> str:
    """The module; what the runtime's optimisations put in has no slash in its name, and no module."""
    scope, slash, _ = name.partition("/")
    return scope.removeprefix("unet.") if slash and scope != "unet" else ""
