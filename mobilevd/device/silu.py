"""SiLU in the form that survives the NPU: x σ(x) = h (1 + tanh h) with h = x / 2.

**Source** σ(x) = (1 + tanh(x/2)) / 2. **Changes** Sigmoid and Mul; the half goes into the affine of the norm before it.
**Why** at 16-bit activations Qualcomm's compiler turns norm → Sigmoid → Mul into noise (0.3 dB where this form has 44).
**Keeps** the function and the collapse itself, measured (``tests/device/test_htp.py``).
"""

from collections import Counter

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

HALF, ONE = "constant_half", "constant_one"


def rewrite(graph: onnx.GraphProto) -> int:
    """Replace every SiLU of ``graph`` in place; how many there were."""
    users = _users(graph)
    made = {output: node for node in graph.node for output in node.output}
    alone = {t.name: t for t in graph.initializer if users[t.name] == 1 and not t.external_data}
    found = {m.output[0]: s for m in graph.node if (s := _sigmoid_of(m, made)) is not None and users[s.output[0]] == 1}
    gone = {sigmoid.output[0] for sigmoid in found.values()}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.output[0] in found:
            sigmoid = found[node.output[0]]
            x, scope = sigmoid.input[0], sigmoid.name.rpartition("/")[0]
            affine = _affine(x, made, alone, users) if users[x] == 2 else []
            for tensor in affine:
                _halve(tensor)
            h = x if affine else f"{node.output[0]}_half"
            nodes += [] if affine else [_node("Mul", [x, HALF], h, f"{scope}/{sigmoid.output[0]}/Mul")]
            nodes += _silu(h, node.output[0], f"{scope}/{sigmoid.output[0]}")
        elif node.output[0] not in gone:
            nodes.append(node)
    if found:
        del graph.node[:]
        graph.node.extend(nodes)
        constants = {HALF: np.float32(0.5), ONE: np.float32(1.0)}
        used = {name for node in nodes for name in node.input}
        graph.initializer.extend(numpy_helper.from_array(np.array(v), n) for n, v in constants.items() if n in used)
    return len(found)


def _silu(h: str, output: str, name: str) -> list[NodeProto]:
    return [
        _node("Tanh", [h], f"{output}_tanh", f"{name}/Tanh"),
        _node("Add", [f"{output}_tanh", ONE], f"{output}_gate", f"{name}/Add"),
        _node("Mul", [h, f"{output}_gate"], output, f"{name}/Mul.2"),
    ]


def _node(kind: str, inputs: list[str], output: str, name: str) -> NodeProto:
    return helper.make_node(kind, inputs, [output], name=name)


def _sigmoid_of(node: NodeProto, made: dict[str, NodeProto]) -> NodeProto | None:
    """The Sigmoid of x when ``node`` is x times it."""
    if node.op_type != "Mul":
        return None
    for x, gate in (node.input, reversed(node.input)):
        source = made.get(gate)
        if source is not None and source.op_type == "Sigmoid" and source.input[0] == x:
            return source
    return None


def _affine(
    x: str, made: dict[str, NodeProto], alone: dict[str, onnx.TensorProto], users: Counter[str]
) -> list[onnx.TensorProto]:
    """w and b when x = Add(Mul(·, w), b), each product and constant nobody else's; empty otherwise."""
    found = []
    for kind in ("Add", "Mul"):
        node = made.get(x)
        constants = [name for name in node.input if name in alone] if node is not None and node.op_type == kind else []
        if len(constants) != 1:
            return []
        found.append(alone[constants[0]])
        [x] = [name for name in node.input if name not in constants] or [""]
        if kind == "Add" and users[x] != 1:
            return []
    return found


def _halve(tensor: onnx.TensorProto) -> None:
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(0.5), tensor.name))


def _users(graph: onnx.GraphProto) -> Counter[str]:
    return Counter([name for node in graph.node for name in node.input] + [output.name for output in graph.output])
