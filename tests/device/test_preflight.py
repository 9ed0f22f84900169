from dataclasses import replace

import one_step
import onnx
import pytest
from onnx import TensorProto, helper
from torch.utils.flop_counter import FlopCounterMode

from mobilevd.device import preflight
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
