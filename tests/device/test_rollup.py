import json
from pathlib import Path

import one_step
import onnx
import pytest
from onnx import TensorProto, helper

from mobilevd.device import rollup
from mobilevd.device.session import open_session
from mobilevd.svd.kinds import KINDS


def event(name, kind, ms):
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": ms * 1000, "args": {"op_name": kind}}


@pytest.fixture
def graph():
    """A spatial convolution between quantizers, a temporal one, an addition of the graph's own and one of the network's
    own, and a last layer. What is dequantized for the spatial one is read by the temporal one, too."""
    q = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["x_q"], name="x_Q")]
    q += [helper.make_node("DequantizeLinear", ["x_q", "s", "z"], ["x_d"], name="x_DQ")]
    conv = "unet.down_blocks.0.resnets.0.{}_res_block.conv1/Conv"
    nodes = [*q, helper.make_node("Conv", ["x_d", "w"], ["y"], name=conv.format("spatial"))]
    nodes += [helper.make_node("QuantizeLinear", ["y", "s", "z"], ["y_q"], name="y_Q")]
    nodes += [helper.make_node("Conv", ["y", "x_d"], ["t"], name=conv.format("temporal"))]
    nodes += [
        helper.make_node("Add", ["t", "x"], ["a"], name="/Add"),
        helper.make_node("Add", ["a", "x"], ["b"], "unet/Add"),
    ]
    nodes += [helper.make_node("Conv", ["b", "w"], ["out"], name="unet.conv_out/Conv")]
    value = helper.make_tensor_value_info
    return helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, [1])], [value("out", TensorProto.FLOAT, [1])])


def test_a_quantizers_time_is_its_layers_and_a_conversions_nobodys(graph):
    spatial, temporal = (
        f"unet.down_blocks.0.resnets.0.{half}_res_block.conv1/Conv" for half in ("spatial", "temporal")
    )
    events = [event("unet.conv_out/Conv", "Conv", 256), {"cat": "Session", "name": "model_run", "dur": 10**6}]
    events += [event(spatial, "Conv", 1) | {"name": f"{spatial}_fence_before"}]
    events += [event("x_DQ/duplicated_token_3", "DequantizeLinear", 1), event(spatial, "Conv", 2)]
    events += [event("y_Q", "QuantizeLinear", 4), event("t_nchwc", "Conv", 8), event(f"{temporal}/Fusion/", "Conv", 16)]
    events += [
        event("ReorderInput_token_9", "ReorderInput", 32),
        event("/Add", "Add", 64),
        event("unet/Add", "Add", 128),
    ]
    times = rollup.one_run(events, runs=2)
    kinds, blocks = rollup.by_kind(times, graph), rollup.by_block(times, graph)
    assert list(kinds.items()) == [
        ("spatial convolution", 131.5),
        ("outside of layers", 112.0),
        ("temporal ResBlocks", 12.0),
    ]
    assert list(blocks.items()) == [("down_blocks.0", 15.5), ("conv_out", 128.0), ("outside of layers", 112.0)]


def test_what_the_optimiser_put_in_is_its_neighbours(graph):
    """Reshapes and transposes around matrix products have names without a module."""
    graph.node.insert(0, helper.make_node("Reshape", ["x", "shape"], ["r"], name="gemm_input_reshape"))
    graph.node.insert(1, helper.make_node("Gemm", ["r", "w"], ["g"], name="unet.mid_block.attentions.0.proj_in/Gemm"))
    graph.node.insert(2, helper.make_node("Reshape", ["g", "shape"], ["q"], name="gemm_output_reshape"))
    graph.node.insert(3, helper.make_node("QuantizeLinear", ["q", "s", "z"], ["q_q"], name="q_Q"))
    graph.node.insert(4, helper.make_node("Add", ["q_q", "x"], ["unread"], name="unet.up_blocks.1/Add"))
    events = [
        event(name, "any", ms) for name, ms in (("gemm_input_reshape", 1), ("gemm_output_reshape", 2), ("q_Q", 4))
    ]
    assert rollup.by_block(rollup.one_run(events, 1), graph) == {"mid_block": 7.0}
    assert rollup.by_kind(rollup.one_run(events, 1), graph) == {"spatial attention": 7.0}


@pytest.mark.parametrize("which", ["float_path", "quantized_path"])
def test_the_networks_time_has_a_layer_and_adds_up(graphs, which, tmp_path):
    path = getattr(graphs, which)
    session = open_session(path, threads=1, trace_to=tmp_path / "trace")
    session.run(None, one_step.feeds(1)[0])
    events, graph = json.loads(Path(session.end_profiling()).read_text()), onnx.load(path).graph
    kinds, blocks = rollup.by_kind(rollup.one_run(events, 1), graph), rollup.by_block(rollup.one_run(events, 1), graph)
    whole = sum(ms for _, _, ms in rollup.kernels(events))
    assert sum(kinds.values()) == pytest.approx(whole) == pytest.approx(sum(blocks.values()))
    assert kinds.keys() == {*KINDS, "outside of layers"}
    assert kinds["outside of layers"] < 0.5 * whole  # conversions of layout: most where layers are tiny
    assert {"conv_in", "down_blocks.0", "mid_block", "up_blocks.1", "conv_out"} <= blocks.keys()
    assert blocks.keys() <= {name for name, _ in graphs.network.unet.named_modules()} | {rollup.OUTSIDE}


def test_a_block_stands_where_it_ends_though_its_embedding_comes_first():
    names = ("unet.up_blocks.0.time/Gemm", "unet.conv_in/Conv", "unet.up_blocks.0.conv/Conv", "unet.conv_out/Conv")
    nodes = [helper.make_node("Conv", ["x"], [f"y{k}"], name=name) for k, name in enumerate(names)]
    graph = helper.make_graph(nodes, "g", [], [])
    events = [event(name, "Conv", 1) for name in names]
    assert list(rollup.by_block(rollup.one_run(events, 1), graph)) == ["conv_in", "up_blocks.0", "conv_out"]


def test_a_phone_that_runs_the_network_as_one_kernel_tells_of_no_block(graph):
    whole = [("QNNExecutionProvider_QNN_1_0", 90.0), ("unet.conv_out/Conv", 1.0)]
    assert rollup.told(whole, graph) == {}
    assert rollup.told([*whole, ("unet.conv_out/Conv", 99.0)], graph)["blocks"] == {
        "conv_out": 100.0,
        rollup.OUTSIDE: 90.0,
    }
