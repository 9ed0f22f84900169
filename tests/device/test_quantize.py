import numpy as np
import one_step
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilevd.device.export import file_bytes
from mobilevd.device.fidelity import sqnr_db
from mobilevd.device.mixed import by_block
from mobilevd.device.quantize import check_weights, quantize
from mobilevd.device.session import open_session
from mobilevd.errors import EffectError

WEIGHTED = ("Conv", "Gemm", "MatMul")


FEEDS = one_step.feeds(2, first_seed=50)


@pytest.fixture(scope="module")
def wanted(graphs):
    """What the float graph gives."""
    net = open_session(graphs.float_path)
    return [net.run(None, feed)[0] for feed in FEEDS]


def compared(wanted, path):
    net = open_session(path)
    return min(sqnr_db(y, net.run(None, feed)[0]) for y, feed in zip(wanted, FEEDS, strict=True))


@pytest.fixture(scope="module")
def in_16_bits(graphs, wanted):
    """SQNR in dB."""
    return compared(wanted, graphs.quantized_path)


def test_16_bit_activations_stay_near_the_float_graph(in_16_bits):
    assert in_16_bits > 28


def test_values_beyond_the_calibrated_range_are_not_clipped_at_16_bits(graphs, tmp_path):
    """Ranges seen by two clips, an output for tokens half as large again."""
    feed = one_step.feeds(1)[0]
    feed["token"] = 1.4 * feed["token"]
    reference = open_session(graphs.float_path).run(None, feed)[0]
    assert sqnr_db(reference, open_session(graphs.quantized_path).run(None, feed)[0]) > 25


def test_8_bit_activations_are_farther_and_still_the_same_function(graphs, wanted, in_16_bits, tmp_path):
    quantize(graphs.float_path, tmp_path / "q.onnx", graphs.ranges, "uint8")
    assert {node.domain for node in onnx.load(tmp_path / "q.onnx").graph.node} == {""}  # what every runtime reads
    assert 8 < compared(wanted, tmp_path / "q.onnx") < in_16_bits


def test_a_graph_of_two_widths_runs_and_is_between_them(graphs, wanted, in_16_bits, tmp_path):
    inputs, tensors = by_block(graphs.float_path, graphs.ranges)
    quantize(graphs.float_path, tmp_path / "q.onnx", graphs.ranges, "uint8", {*inputs, *tensors["mid_block"]})
    assert 8 < compared(wanted, tmp_path / "q.onnx") < in_16_bits


def test_every_layer_with_weights_is_quantized_and_the_file_shrinks(graphs):
    counts = {kind.kind: (kind.nodes, kind.quantized) for kind in graphs.kinds}
    assert all(counts[kind][0] == counts[kind][1] > 0 for kind in WEIGHTED)
    assert file_bytes(graphs.quantized_path) < 0.6 * file_bytes(graphs.float_path)


def test_convolutions_have_one_int8_scale_per_output_channel(graphs):
    graph = onnx.load(graphs.quantized_path).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    conv = next(node for node in graph.node if node.name == "unet.conv_in/Conv")
    dequantize = next(node for node in graph.node if conv.input[1] in node.output)
    values, scale, zero = (numpy_helper.to_array(stored[name]) for name in dequantize.input)
    assert (values.dtype, scale.shape) == (np.int8, (32,))
    assert not zero.any()


def test_the_opset_stays_what_was_exported(graphs):
    imports = {entry.domain: entry.version for entry in onnx.load(graphs.quantized_path).opset_import}
    assert imports[""] == 20


def test_the_float_graph_itself_is_caught_as_unquantized(graphs):
    with pytest.raises(EffectError, match="left weights in float"):
        check_weights(onnx.load(graphs.float_path).graph)


def graph_of(nodes, *stored):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4]) for name in "xy")
    return helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(a, name) for name, a in stored])


FLOAT, INT = np.eye(4, dtype=np.float32), np.eye(4, dtype=np.int8)
SCALE, ZERO = ("s", np.float32(1.0)), ("z", np.int8(0))


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Transpose", ["w"], ["wt"])],
        [helper.make_node("Constant", [], ["wt"], value=numpy_helper.from_array(FLOAT))],
        [
            helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["wt"]),
        ],
    ],
    ids=["behind a transpose", "in a constant node", "quantized anew on every run"],
)
def test_float_weights_are_found_behind_other_nodes(nodes):
    graph = graph_of([*nodes, helper.make_node("MatMul", ["x", "wt"], ["y"], name="layer")], ("w", FLOAT), SCALE, ZERO)
    with pytest.raises(EffectError, match="1 of 1 layers: layer"):
        check_weights(graph)


def test_integer_weights_and_products_of_two_activations_pass():
    dequantize = helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wt"])
    check_weights(graph_of([dequantize, helper.make_node("MatMul", ["x", "wt"], ["y"])], ("w", INT), SCALE, ZERO))
    check_weights(graph_of([helper.make_node("MatMul", ["x", "x"], ["y"])]))
