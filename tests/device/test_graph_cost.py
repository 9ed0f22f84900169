import onnx
import pytest
from onnx import TensorProto, helper

from mobilevd.device import graph_cost

FLOAT, UINT8, UINT16 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.UINT16


def saved(folder, nodes, *, given, made, weights=(), opset=18):
    """A graph with the inputs and outputs of these shapes."""
    border = [[helper.make_tensor_value_info(n, FLOAT, s) for n, s in side.items()] for side in (given, made)]
    graph = helper.make_graph(nodes, "g", *border, list(weights))
    imports = [
        helper.make_opsetid("", opset),
        *(helper.make_opsetid(name, 1) for name in ("com.acme", "com.microsoft")),
    ]
    onnx.save(helper.make_model(graph, opset_imports=imports), folder / "g.onnx")
    return folder / "g.onnx"


def number(name, kind, value):
    return helper.make_tensor(name, kind, [], [value])


def product(folder, domain="", shape=(2, 4)):
    """y = x w, x of ``shape`` and w of 4 x 8: 2 · 2 · 4 · 8 FLOPs where x has two rows."""
    weights = helper.make_tensor("w", FLOAT, (4, 8), [1.0] * 32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], domain=domain)
    return saved(folder, [node], given={"x": shape}, made={"y": (shape[0], 8)}, weights=[weights])


@pytest.mark.parametrize("rows", ["batch", None, -1])
def test_an_open_axis_is_told_and_never_a_length_of_nothing(tmp_path, rows):
    graph, shapes, _ = graph_cost.load(product(tmp_path, shape=(rows, 4)))
    assert shapes == {"w": (4, 8)}
    assert graph_cost.unsized(graph, shapes) == {"x": "shape not static", "y": "shape not static"}
    assert graph_cost.flops(graph.node[0], shapes) == 0


def test_a_tensor_that_nothing_is_known_of_is_told(tmp_path):
    """Shape inference stops at an operator that it does not know."""
    nodes = [helper.make_node("Odd", ["x"], ["a"], domain="com.acme"), helper.make_node("MatMul", ["a", "a"], ["b"])]
    nodes.append(helper.make_node("Sum", ["b", "x"], ["y"]))
    graph, shapes, _ = graph_cost.load(saved(tmp_path, nodes, given={"x": (2, 2)}, made={"y": (2, 2)}))
    assert graph_cost.unsized(graph, shapes) == {"a": "shape not known", "b": "shape not known"}
    assert [graph_cost.flops(node, shapes) for node in graph.node] == [0, 0, 0]


def test_a_scalar_has_a_shape_and_an_axis_without_elements_too(tmp_path):
    path = saved(tmp_path, [helper.make_node("Neg", [n], [f"{n}2"]) for n in "ab"], given={"a": (), "b": (0,)}, made={})
    graph, shapes, _ = graph_cost.load(path)
    assert shapes == {"a": (), "b": (0,), "a2": (), "b2": (0,)}
    assert graph_cost.unsized(graph, shapes) == {}


@pytest.mark.parametrize(("domain", "counted"), [("", 128), ("ai.onnx", 128), ("com.acme", 0), ("com.microsoft", 0)])
def test_only_onnxs_own_operators_are_counted_as_what_they_are_called(tmp_path, domain, counted):
    graph, shapes, _ = graph_cost.load(product(tmp_path, domain))
    assert shapes["y"] == (2, 8)
    assert graph_cost.flops(graph.node[0], shapes) == counted
    assert graph_cost.is_standard(graph.node[0]) == bool(counted)
    assert graph_cost.called(graph.node[0]) == ("MatMul" if counted else f"{domain}::MatMul")


@pytest.mark.parametrize("domain", ["", "com.microsoft"])
@pytest.mark.parametrize(("point", "kind"), [(None, UINT8), ("", UINT8), (UINT8, UINT8), (UINT16, UINT16)])
def test_shapes_and_types_go_through_quantization_of_either_domain(tmp_path, domain, point, kind):
    weights = [number("s", FLOAT, 0.1)] + ([number("z", point, 0)] if point else [])
    last = {None: [], "": [""]}.get(point, ["z"])
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", *last], ["q"], domain=domain),
        helper.make_node("DequantizeLinear", ["q", "s", *last], ["d"], domain=domain),
        helper.make_node("MatMul", ["d", "d"], ["y"]),
    ]
    path = saved(tmp_path, nodes, given={"x": (3, 3)}, made={"y": None}, weights=weights)
    graph, shapes, types = graph_cost.load(path)
    assert [shapes[name] for name in "qdy"] == [(3, 3)] * 3
    assert [types[name] for name in "qdy"] == [kind, FLOAT, FLOAT]
    assert [node.domain for node in graph.node] == [domain, domain, ""]
    assert all(map(graph_cost.is_standard, graph.node))
    assert sum(graph_cost.flops(node, shapes) for node in graph.node) == 54


def test_every_shape_of_the_networks_own_graphs_is_known(graphs):
    for path in (graphs.float_path, graphs.quantized_path):
        graph, shapes, _ = graph_cost.load(path)
        assert graph_cost.unsized(graph, shapes) == {}
