"""The blocks that spoil the output get 16 bits, and no more of them than the limit asks for."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilevd.device import calibrate, mixed
from mobilevd.device import quantize as quantizing
from mobilevd.device.fidelity import sqnr_db
from mobilevd.device.quantize import quantize
from mobilevd.device.session import open_session
from mobilevd.errors import EffectError

MIDDLE = "mid_block.resnets.0.conv"
LAYERS = ("conv_in", "down_blocks.0.conv1", "down_blocks.0.conv2", f"{MIDDLE}1", f"{MIDDLE}2", "conv_out")
LOUD, LIMIT = 30.0, 30.0


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """Convolutions; one channel in the middle is so loud that eight bits leave the others a handful of levels."""
    g, nodes, stored, x = np.random.default_rng(0), [], [], "x"
    loud = np.float32([LOUD, 1, 1, 1])
    scales = {f"{MIDDLE}1": loud[:, None, None, None], f"{MIDDLE}2": 1 / loud[None, :, None, None] ** 2}
    for layer in LAYERS:
        w = (g.normal(size=(4, 4, 3, 3)) / 6 * scales.get(layer, 1.0)).astype(np.float32)
        stored.append(numpy_helper.from_array(w, f"{layer}.weight"))
        nodes.append(helper.make_node("Conv", [x, f"{layer}.weight"], [layer], f"unet.{layer}/Conv", pads=[1, 1, 1, 1]))
        x = layer
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4, 8, 8]) for n in ("x", LAYERS[-1])]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    path = tmp_path_factory.mktemp("mixed") / "float.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


def feeds(count):
    return [{"x": np.random.default_rng(k).normal(size=(1, 4, 8, 8)).astype(np.float32)} for k in range(count)]


@pytest.fixture(scope="module")
def chosen(graph):
    found = calibrate.ranges(graph, feeds(4))
    return mixed.choose(graph, graph.with_name("quantized.onnx"), found, feeds(2), LIMIT)


def width(path) -> int:
    """The type in which the loud tensor is kept."""
    graph = onnx.load(path).graph
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    return next(stored[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == f"{MIDDLE}1")


def test_the_block_that_spoils_the_output_is_the_first_in_16_bits_and_those_that_do_not_stay(graph, chosen):
    assert list(chosen.alone) == sorted(chosen.alone, key=chosen.alone.get)
    assert chosen.wide == tuple(chosen.alone)[: len(chosen.wide)]
    assert chosen.wide[0] == "mid_block"
    assert {"conv_in", "conv_out"}.isdisjoint(chosen.wide)
    assert chosen.alone["mid_block"] < 20 < LIMIT < chosen.alone["conv_in"]
    assert width(graph.with_name("quantized.onnx")) == TensorProto.UINT16


def test_the_limit_holds_with_what_was_chosen(graph, chosen):
    both = [open_session(path) for path in (graph, graph.with_name("quantized.onnx"))]
    assert min(sqnr_db(*(session.run(None, feed)[0] for session in both)) for feed in feeds(2)) >= LIMIT


def test_it_would_not_hold_without_the_last_of_them(graph, chosen, tmp_path):
    found = calibrate.ranges(graph, feeds(4))
    inputs, tensors = mixed.by_block(graph, found)
    fewer = {*inputs, *(tensor for name in chosen.wide[:-1] for tensor in tensors[name])}
    quantize(graph, tmp_path / "q.onnx", found, "uint8", fewer)
    both = [open_session(path) for path in (graph, tmp_path / "q.onnx")]
    assert min(sqnr_db(*(session.run(None, feed)[0] for session in both)) for feed in feeds(2)) < LIMIT


def test_a_limit_that_8_bits_meet_widens_nothing(graph, tmp_path):
    found = calibrate.ranges(graph, feeds(4))
    assert mixed.choose(graph, tmp_path / "q.onnx", found, feeds(2), 5.0).wide == ()
    assert width(tmp_path / "q.onnx") == TensorProto.UINT8


def test_a_limit_beyond_16_bits_is_an_error_with_what_they_reach(graph, tmp_path):
    found = calibrate.ranges(graph, feeds(4))
    with pytest.raises(EffectError, match=r"16-bit activations everywhere\n  got:     \d\d\.\d dB\n  allowed: 150 dB"):
        mixed.choose(graph, tmp_path / "q.onnx", found, feeds(2), 150.0)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Two convolutions of one input, one weight and one bias; both outputs are read twice, and one leaves the graph."""
    g, path = np.random.default_rng(0), tmp_path_factory.mktemp("shared") / "float.onnx"
    stored = [numpy_helper.from_array(g.normal(size=(4, 4, 1, 1)).astype(np.float32), "w")]
    stored.append(numpy_helper.from_array(g.normal(size=4).astype(np.float32), "bias"))
    nodes = [
        helper.make_node("Conv", ["x", "w", "bias"], ["a"], "first"),
        helper.make_node("Add", ["x", "a"], ["b"], "add"),
    ]
    nodes.append(helper.make_node("Conv", ["b", "w", "bias"], ["c"], "second"))
    nodes.append(helper.make_node("Mul", ["b", "b"], ["d"], "square"))
    nodes.append(helper.make_node("Add", ["c", "d"], ["y"], "last"))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4, 8, 8]) for n in "xyb"]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


@pytest.mark.parametrize("widths", [(), ("x", "b"), ("a",), ("c", "d", "y")], ids=str)
def test_renaming_by_an_index_writes_the_bytes_that_the_runtimes_own_does(shared, tmp_path, monkeypatch, widths):
    found = calibrate.ranges(shared, feeds(4))
    quantize(shared, tmp_path / "indexed.onnx", found, "uint8", widths)
    monkeypatch.setattr(quantizing, "_Indexed", quantizing.ONNXModel)
    quantize(shared, tmp_path / "own.onnx", found, "uint8", widths)
    assert (tmp_path / "indexed.onnx").read_bytes() == (tmp_path / "own.onnx").read_bytes()
