"""What it takes to compile every block of a network for the Snapdragon 8 Gen 3's NPU, each by itself.

Used by phone_path.py, where the whole is too much for this machine. A block is cut out of the quantized graph with what
it reads from other blocks as its inputs; a file per block keeps what is done, the cheapest first.
"""

import json
import resource
import time
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from mobilevd.device import graph_cost, htp
from mobilevd.device.noise import block
from mobilevd.device.quantize import QDQ
from mobilevd.device.targets import SNAPDRAGON


def compiled(graph: Path, folder: Path) -> dict:
    """Block → its GFLOPs, seconds, MB of its binary and peak memory; folder keeps them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in blocks(graph):
        kept = folder / f"{name}.json"
        if not kept.is_file():
            kept.write_text(json.dumps(one(graph, name, folder)) + "\n")
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def blocks(path: Path) -> dict[str, int]:
    """Block → FLOPs, the cheapest first."""
    graph, shapes, _ = graph_cost.load(path)
    found: dict[str, int] = {}
    for node in graph.node:
        if _block(node):
            found[_block(node)] = found.get(_block(node), 0) + graph_cost.flops(node, shapes)
    return dict(sorted(((name, flops) for name, flops in found.items() if flops), key=lambda item: item[1]))


def one(graph: Path, name: str, folder: Path) -> dict:
    """Cut, compile, and say what it took."""
    part = folder / f"{name}.onnx"
    cut(graph, name, part)
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    report, _ = htp.compile_and_run(part, SNAPDRAGON, folder / name / "context.onnx")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "gflops": round(blocks(graph)[name] / 1e9, 1),
        "compile_s": round(report.compile_s, 1),
        "wall_s": round(time.perf_counter() - began, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime, 1),
        "mb": round(report.context_mb, 1),
        "partitions": report.partitions,
        "on_cpu": report.fallbacks,
        "peak_gib_so_far": round(used.ru_maxrss / 2**20, 2),
    }


def cut(path: Path, name: str, target: Path) -> None:
    """Write the block ``name`` of the quantized graph at ``path`` to ``target``, up to its last layer's value."""
    _, shapes, _ = graph_cost.load(path)
    graph = (model := onnx.load(path)).graph
    made = {output: node for node in graph.node for output in node.output}
    readers = {read: node for node in reversed(graph.node) for read in node.input}
    last = [node for node in graph.node if _block(node) == name][-1].output[0]
    end = readers[readers[last].output[0]].output[0]  # quantized and back: what the next block would read
    needed, given, todo = set(), set(), [end]
    while todo:
        node = made.get(tensor := todo.pop())
        if tensor in needed or (node is None and tensor not in shapes):
            continue
        if node is not None and _block(node) in ("", name):
            needed.update(node.output)
            todo.extend(node.input)
        else:
            given.add(tensor)
    nodes = [node for node in graph.node if node.output[0] in needed]
    weights = [tensor for tensor in graph.initializer if tensor.name in given]
    given -= {tensor.name for tensor in weights}
    told = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in (*given, end)}
    ends = [told[tensor] for tensor in sorted(given)], [told[end]]
    part = helper.make_graph(nodes, name, *ends, weights)
    onnx.save(helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version), target)


def _block(node: onnx.NodeProto) -> str:
    """Empty for what is not a layer's."""
    return block(node.name) if "/" in node.name and node.op_type not in QDQ else ""
