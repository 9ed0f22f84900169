from dataclasses import replace

import one_step
import onnx
import pytest
from onnx import TensorProto, helper
from torch.utils.flop_counter import FlopCounterMode

from mobilevd.device import graph_cost, preflight
from mobilevd.device.targets import HOST_CPU, NORM_WEIGHTS, SNAPDRAGON, Limits
from mobilevd.errors import EffectError

ALLOWED = ", ".join(sorted(NORM_WEIGHTS))


def planted(folder, kind="Add", shape=(1, 2, 3, 4, 5), elem=TensorProto.FLOAT):
    """A small graph with one node called layer.x."""
    border = helper.make_tensor_value_info("x", elem, shape), helper.make_tensor_value_info("y", elem, shape)
    node = helper.make_node(kind, ["x"] * (2 if kind in ("Add", "MatMul") else 1), ["y"], name="layer.x")
    graph = helper.make_graph([node], "g", [border[0]], [border[1]])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), folder / "g.onnx")
    return folder / "g.onnx"


def test_the_networks_graphs_pass_on_the_npu(graphs):
    for path in (graphs.float_path, graphs.quantized_path):
        found = preflight.check(path, SNAPDRAGON).require()
        assert found.fallback_share == 0
        assert found.graph_mb < path.stat().st_size / 1e6


def test_flops_of_the_graph_are_torchs(graphs):
    import torch

    given = [torch.from_numpy(array) for array in one_step.feeds(1)[0].values()]
    with FlopCounterMode(display=False) as counter:
        graphs.network(given[0][None], *given[1:])
    counted = preflight.check(graphs.float_path, HOST_CPU).flops
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.02)  # what depends on no input is folded


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "layer.x: Add of rank 5, at most 4 there"),
        ({"kind": "NonZero", "shape": (2, 2)}, "layer.x: operator NonZero is not known there"),
        ({"kind": "Erf", "shape": (2, 2)}, "layer.x: operator Erf is not known there"),
        ({"elem": TensorProto.DOUBLE, "shape": (2, 2)}, "layer.x: Add on DOUBLE"),
        ({"kind": "MatMul", "shape": (1, 1, 2, 2, 2)}, "MatMul of rank 5, at most 4 there (100.0% of the FLOPs)"),
    ],
)
def test_what_the_npu_does_not_take_is_named_with_its_layer(tmp_path, changes, said):
    found = preflight.check(planted(tmp_path, **changes), SNAPDRAGON)
    assert said in str(found.findings[0])
    with pytest.raises(EffectError, match="would not take the graph"):
        found.require()
    assert preflight.check(tmp_path / "g.onnx", HOST_CPU).findings == []


@pytest.mark.parametrize(("stored", "taken"), [("UINT16", True), ("UINT8", True), ("INT8", False), ("INT16", False)])
def test_a_layer_norm_with_signed_weights_leaves_the_npu(tmp_path, stored, taken):
    kind = TensorProto.DataType.Value(stored)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 4]) for n in "xy")
    weights = [helper.make_tensor("w", kind, [4], [1] * 4), helper.make_tensor("s", TensorProto.FLOAT, [], [0.1])]
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["wd"], name="w_DQ"),
        helper.make_node("LayerNormalization", ["x", "wd"], ["y"], name="layer.norm"),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), tmp_path / "g.onnx")
    said = [str(finding) for finding in preflight.check(tmp_path / "g.onnx", SNAPDRAGON).findings]
    assert said == ([] if taken else [f"layer.norm: LayerNormalization with {stored} weights, {ALLOWED} there"])
    assert preflight.check(tmp_path / "g.onnx", HOST_CPU).findings == []


def test_a_tensor_or_graph_that_is_too_large_is_named_in_mb(graphs):
    small = replace(SNAPDRAGON, limits=Limits(tensor_bytes=20_000, graph_bytes=100_000))
    texts = [str(finding) for finding in preflight.check(graphs.float_path, small).findings]
    assert any(text.startswith("unet.") and "MB, at most 0 MB there" in text for text in texts)
    assert texts[-1].startswith("the whole graph: ")


def two_products(folder):
    """a = x w (2 x 4 x 8 products), y = relu(a) v (2 x 8 x 1)."""
    value = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [2, 4]), ("y", [2, 1]))}
    stored = [
        helper.make_tensor(n, TensorProto.FLOAT, s, [1.0] * (s[0] * s[1])) for n, s in (("w", (4, 8)), ("v", (8, 1)))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="act"),
    ]
    nodes.append(helper.make_node("MatMul", ["b", "v"], ["y"], name="second"))
    graph = helper.make_graph(nodes, "g", [value["x"]], [value["y"]], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), folder / "g.onnx")
    return folder / "g.onnx"


@pytest.mark.parametrize(
    ("limits", "shares", "whole"),
    [
        (Limits(tensor_bytes=70), {"w": 0.8}, 0.8),  # of 128 bytes: read by the first product alone
        (Limits(tensor_bytes=60), {"first": 0.8, "act": 0.2, "w": 0.8}, 1.0),
        (Limits(graph_bytes=100), {"the whole graph": 1.0}, 1.0),
        (
            Limits(operators=frozenset({"Relu"}), graph_bytes=100),
            {"first": 0.8, "second": 0.2, "the whole graph": 1.0},
            1.0,
        ),
    ],
    ids=["a weight", "several", "the graph", "operators and the graph"],
)
def test_what_is_too_large_takes_its_nodes_share_of_the_flops_along_and_none_is_counted_twice(
    tmp_path, limits, shares, whole
):
    found = preflight.check(two_products(tmp_path), replace(SNAPDRAGON, limits=limits))
    assert {finding.layer: finding.share for finding in found.findings} == pytest.approx(shares)
    assert found.fallback_share == pytest.approx(whole)
    with pytest.raises(EffectError, match=f"{whole:.1%} of the FLOPs off the NPU"):
        found.require()


def model(folder, nodes, border, weights=(), opset=18):
    """A graph with inputs and outputs of these shapes: two dictionaries."""
    given, made = ([helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in side.items()] for side in border)
    graph = helper.make_graph(nodes, "g", given, made, list(weights))
    imports = [
        helper.make_opsetid("", opset),
        *(helper.make_opsetid(name, 1) for name in ("com.acme", "com.microsoft")),
    ]
    onnx.save(helper.make_model(graph, opset_imports=imports), folder / "g.onnx")
    return folder / "g.onnx"


@pytest.mark.parametrize("axis", ["batch", None])
def test_open_axes_are_refused_for_the_npu_and_taken_by_the_host(tmp_path, axis):
    weights = helper.make_tensor("w", TensorProto.FLOAT, (4, 8), [1.0] * 32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"], name="first"), helper.make_node("Relu", ["a"], ["y"])]
    path = model(tmp_path, nodes, ({"x": (axis, 4)}, {"y": (axis, 8)}), [weights])
    found = preflight.check(path, SNAPDRAGON)
    assert [str(finding) for finding in found.findings] == ["first: shape not static (a)", "y: shape not static (y)"]
    with pytest.raises(EffectError, match="shape not static"):
        found.require()
    host = preflight.check(path, HOST_CPU)
    assert host.findings == []
    assert host.largest_tensor == "w 0.0 MB, of those with static shapes (3 have none)"


@pytest.mark.parametrize("domain", ["com.acme", "com.microsoft"])
def test_an_operator_is_known_by_its_domain_too_and_what_follows_a_foreign_one_has_no_known_shape(tmp_path, domain):
    nodes = [helper.make_node("Relu", ["x"], ["a"], domain=domain, name="odd"), helper.make_node("Neg", ["a"], ["b"])]
    nodes.append(helper.make_node("Add", ["b", "x"], ["y"]))
    path = model(tmp_path, nodes, ({"x": (2, 2)}, {"y": (2, 2)}))
    said = [str(finding) for finding in preflight.check(path, SNAPDRAGON).findings]
    assert said[0] == f"odd: operator {domain}::Relu is not known there"
    assert said[1:] == ["b: shape not known (b)", "y: shape not known (b)"]
    assert preflight.check(path, HOST_CPU).findings == []


@pytest.mark.parametrize("domain", ["ai.onnx", ""])
def test_onnxs_operators_are_known_under_both_names_of_their_domain(tmp_path, domain):
    path = model(tmp_path, [helper.make_node("Relu", ["x"], ["y"], domain=domain)], ({"x": (2, 2)}, {"y": (2, 2)}))
    assert preflight.check(path, SNAPDRAGON).findings == []


def quantized_sum(folder, reads="DequantizeLinear", point=TensorProto.UINT8, name="sum.{}"):
    """y = x + x, then twice that, in QDQ form; ``reads``: what takes the first sum besides its QuantizeLinear."""
    last = ["z"] if point else []
    weights = [helper.make_tensor("s", TensorProto.FLOAT, [], [0.1])]
    weights += [helper.make_tensor("z", point, [], [0])] if point else []
    nodes = []
    for k, source in enumerate(("x", "a0", "a1")):
        domain = {"domain": "com.microsoft"}
        nodes.append(helper.make_node("QuantizeLinear", [source, "s", *last], [f"q{k}"], **domain))
        nodes.append(helper.make_node("DequantizeLinear", [f"q{k}", "s", *last], [f"d{k}" if k < 2 else "y"], **domain))
        nodes += [helper.make_node("Add", [f"d{k}"] * 2, [f"a{k}"], name=name.format(k))] if k < 2 else []
    border = {"x": (10, 10)}, {"y": (10, 10)}
    if reads != "DequantizeLinear":
        nodes.append(helper.make_node(reads, ["a0" if reads == "Relu" else "d1"], ["other"]))
        border[1]["other"] = (10, 10)
    return model(folder, nodes, border, weights)


def largest(path, limit):
    found = preflight.check(path, replace(SNAPDRAGON, limits=Limits(tensor_bytes=limit)))
    return [str(finding).split(" MB")[0] for finding in found.findings]


def test_what_is_quantized_right_away_counts_once_and_in_its_quantized_size(tmp_path):
    """100 bytes each; float32 at the border, where what is handed over is float."""
    path = quantized_sum(tmp_path)
    assert largest(path, 400) == []
    assert largest(path, 399) == ["x: 0", "y: 0"]
    assert largest(path, 99) == ["x: 0", "q0: 0", "sum.0: 0", "sum.1: 0", "y: 0"]
    assert preflight.check(path, SNAPDRAGON).largest_tensor == "x 0.0 MB"
    assert largest(quantized_sum(tmp_path, point=TensorProto.UINT16), 199)[1:4] == ["q0: 0", "sum.0: 0", "sum.1: 0"]
    assert largest(quantized_sum(tmp_path, point=None), 100) == ["x: 0", "y: 0"]  # without a zero point: UINT8


def test_a_layer_without_a_name_is_called_by_what_it_makes(tmp_path):
    assert largest(quantized_sum(tmp_path, name=""), 99) == ["x: 0", "q0: 0", "a0: 0", "a1: 0", "y: 0"]
    plain = model(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], ({"x": (1, 1)}, {"y": (10, 10)}))
    assert largest(plain, 99)[-1] == "y: 0"


@pytest.mark.parametrize(("reads", "floats"), [("Relu", ["sum.0", "d0"]), ("Neg", ["d1"])])
def test_a_tensor_that_a_float_operator_reads_counts_in_float(tmp_path, reads, floats):
    """Relu of the first sum itself, which then runs in float on float inputs; Neg of the dequantized one."""
    found = largest(quantized_sum(tmp_path, reads), 399)
    assert sorted(found) == sorted(f"{layer}: 0" for layer in ("x", "y", "other", *floats))
    assert largest(quantized_sum(tmp_path, reads), 400) == []


@pytest.mark.parametrize(("kind", "more"), [("Relu", {}), ("Cast", {"to": TensorProto.FLOAT})])
def test_a_tensor_that_a_float_operator_makes_counts_in_float_though_it_is_quantized_next(tmp_path, kind, more):
    scale = helper.make_tensor("s", TensorProto.FLOAT, [], [0.1])
    nodes = [helper.make_node(kind, ["x"], ["a"], name="first", **more)]
    nodes.append(helper.make_node("QuantizeLinear", ["a", "s"], ["q"]))
    nodes.append(helper.make_node("DequantizeLinear", ["q", "s"], ["y"]))
    path = model(tmp_path, nodes, ({"x": (10, 10)}, {"y": (10, 10)}), [scale])
    if kind == "Cast":
        changed = onnx.load(path)
        changed.graph.input[0].type.tensor_type.elem_type = TensorProto.INT32
        onnx.save(changed, path)
    assert sorted(largest(path, 399)) == ["first: 0", "x: 0", "y: 0"]


def test_what_is_quantized_leaves_the_npu_with_the_layers_around_it(tmp_path):
    """Both products read or make the tensor between them; its quantized form stands between Q and DQ alone."""
    weights = [helper.make_tensor("s", TensorProto.FLOAT, [], [0.1])]
    weights += [helper.make_tensor(n, TensorProto.UINT8, (4, 4), [1] * 16) for n in ("v", "w")]
    nodes = [helper.make_node("DequantizeLinear", [n, "s"], [f"{n}d"]) for n in ("v", "w")]
    for k, (source, weight) in enumerate((("x", "vd"), ("a0", "wd"), ("a1", ""))):
        nodes.append(helper.make_node("QuantizeLinear", [source, "s"], [f"q{k}"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"q{k}", "s"], [f"d{k}" if weight else "y"]))
        nodes += [helper.make_node("MatMul", [f"d{k}", weight], [f"a{k}"], name=f"product.{k}")] if weight else []
    path = model(tmp_path, nodes, ({"x": (2, 4)}, {"y": (2, 4)}), weights)
    found = preflight.check(path, replace(SNAPDRAGON, limits=Limits(tensor_bytes=15)))
    assert {f.layer: f.share for f in found.findings} == {"x": 0, "y": 0, "v": 0.5, "w": 0.5}
    found = preflight.check(path, replace(SNAPDRAGON, limits=Limits(tensor_bytes=7)))
    assert {f.layer: f.share for f in found.findings}["product.0"] == 1.0


def test_what_a_quantizer_left_behind_in_the_list_of_tensors_is_none(tmp_path):
    graph = onnx.load(planted(tmp_path, "Relu", (2, 2)))
    graph.graph.value_info.append(helper.make_tensor_value_info("gone", TensorProto.FLOAT, (10, 10)))
    onnx.save(graph, tmp_path / "g.onnx")
    assert preflight.check(tmp_path / "g.onnx", SNAPDRAGON).largest_tensor == "x 0.0 MB"


def test_the_networks_tensors_are_quantized_but_for_its_inputs_and_their_reshapes(graphs):
    graph, _, types = graph_cost.load(graphs.quantized_path)
    one = preflight._Quantized(graph, types).stands_for()
    made = {name: node for node in graph.node for name in node.output if node.op_type != "QuantizeLinear"}
    left = [name for name in made.keys() - one.keys() if types[name] in preflight.FLOATS]
    assert {made[name].op_type for name in left if name != graph.output[0].name} <= {"Reshape", "Unsqueeze"}
    assert len(one) > 100 * len(left)
    assert all(types[name] not in preflight.FLOATS for name in one.values())
