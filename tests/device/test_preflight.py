from dataclasses import replace

import one_step
import onnx
import pytest
from onnx import TensorProto, helper
from torch.utils.flop_counter import FlopCounterMode

from mobilevd.device import preflight
from mobilevd.device.targets import HOST_CPU, SNAPDRAGON, Limits
from mobilevd.errors import EffectError


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


def test_a_tensor_or_graph_that_is_too_large_is_named_in_mb(graphs):
    small = replace(SNAPDRAGON, limits=Limits(tensor_bytes=20_000, graph_bytes=100_000))
    texts = [str(finding) for finding in preflight.check(graphs.float_path, small).findings]
    assert any(text.startswith("unet.") and "MB, at most 0 MB there" in text for text in texts)
    assert texts[-1].startswith("the whole graph: ")
