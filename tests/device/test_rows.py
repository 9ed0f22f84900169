"""Numbers that pass through beside learned weights: the rows that carry both get 16 bits, and the network survives."""

import numpy as np
import onnx
import products
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilevd.device import calibrate, mixed, rows
from mobilevd.device import quantize as quantizing
from mobilevd.device.fidelity import EQUAL_DB, sqnr_db
from mobilevd.device.quantize import quantize
from mobilevd.device.session import open_session

LAYERS = ("conv_in", "mid_block.conv", "conv_out")
SHAPE, LOWEST_DB = (1, 16, 8, 8), 35.0


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Three convolutions; the last repeats its input beside weights that are a hundred times smaller."""
    g, nodes, stored, x = np.random.default_rng(0), [], [], "x"
    for layer in LAYERS:
        w = (g.normal(size=(16, 16, 3, 3)) / 12).astype(np.float32)
        if layer == "conv_out":
            w *= 0.12
            w[np.arange(16), np.arange(16), 1, 1] = 1.0
        if layer == "conv_in":
            w[3] = 0.0  # a row of zeros holds nothing
        stored.append(numpy_helper.from_array(w, f"{layer}.weight"))
        nodes.append(helper.make_node("Conv", [x, f"{layer}.weight"], [layer], f"unet.{layer}/Conv", pads=[1, 1, 1, 1]))
        x = layer
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, SHAPE) for n in ("x", LAYERS[-1])]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    path = tmp_path_factory.mktemp("rows") / "float.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


def feeds(count, seed=0):
    return [{"x": np.random.default_rng(seed + k).normal(size=SHAPE).astype(np.float32)} for k in range(count)]


def near(source, path):
    """SQNR on an input that calibration did not see."""
    [feed] = feeds(1, seed=9)
    return sqnr_db(*(open_session(p).run(None, feed)[0] for p in (source, path)))


def kinds(path):
    """Layer → the type of its stored weights, and how many scales they have."""
    graph = onnx.load(path).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made = {output: node for node in graph.node for output in node.output}
    ends = {
        node.name[len("unet.") : -len("/Conv")]: made[node.input[1]] for node in graph.node if node.op_type == "Conv"
    }
    return {name: (stored[d.input[0]].dtype.name, stored[d.input[1]].size) for name, d in ends.items()}


def test_the_worst_row_is_the_one_whose_small_numbers_are_rounded_away():
    fair, mixed_row = np.float32([[1.0, -0.5, 0.25]]), np.float32([[1.0, 0.003, 0.003]])
    wanted = 10 * np.log10((1 + 2 * 0.003**2) / (2 * 0.003**2))  # both small ones are under half a level
    assert rows.worst_db(np.concatenate([fair, mixed_row])) == pytest.approx(wanted, abs=1e-3)
    assert rows.worst_db(fair) > 45
    assert rows.worst_db(np.zeros((2, 3), np.float32)) == EQUAL_DB


def test_only_the_layer_that_carries_both_is_named(source):
    [found] = rows.under(source, LOWEST_DB)
    assert found.layer == "unet.conv_out/Conv"
    assert found.weight == "conv_out.weight"
    assert len(rows.under(source, 100.0)) == len(LAYERS)
    assert rows.under(source, 100.0)[0] == found
    assert rows.under(source, 0.0) == []


def test_its_weights_in_16_bits_bring_the_output_near(source, tmp_path):
    found, paths = calibrate.ranges(source, feeds(3)), (tmp_path / "8.onnx", tmp_path / "16.onnx")
    for path, weights in zip(paths, ((), [row.weight for row in rows.under(source, LOWEST_DB)]), strict=True):
        quantize(source, path, found, "uint16", weights=weights)
    assert kinds(paths[1]) == {"conv_in": ("int8", 16), "mid_block.conv": ("int8", 16), "conv_out": ("int16", 16)}
    assert near(source, paths[1]) > near(source, paths[0]) + 3


def test_beside_8_bit_activations_all_weights_stay(source, tmp_path):
    quantize(source, tmp_path / "q.onnx", calibrate.ranges(source, feeds(3)), "uint8", weights=["conv_out.weight"])
    assert {kind for kind, _ in kinds(tmp_path / "q.onnx").values()} == {"int8"}


def test_under_mixed_precision_those_of_widened_blocks_alone_have_16(source, tmp_path):
    found, both = calibrate.ranges(source, feeds(3)), ["conv_out.weight", "conv_in.weight"]
    chosen = mixed.choose(source, tmp_path / "q.onnx", found, feeds(2), 36.0, both)
    wide = {name for name, (kind, _) in kinds(tmp_path / "q.onnx").items() if kind == "int16"}
    assert wide == {"conv_in", "conv_out"} & set(chosen.wide)


@pytest.mark.parametrize("kind", ["MatMul", "Gemm"])
def test_a_linear_layer_has_a_scale_per_output_channel_and_16_bits_where_8_do_not_hold_one(tmp_path, kind):
    source, (seen, new) = products.linear(tmp_path, kind)
    under = rows.under(source, 40.0)
    assert [(row.layer, row.weight) for row in under] == [("unet.mid_block.to_q", "w")]
    found, near = calibrate.ranges(source, [seen]), {}
    for bits, weights in ((8, []), (16, ["w"])):
        path = tmp_path / f"{bits}.onnx"
        quantize(source, path, found, "uint16", weights=weights)
        stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
        assert (stored["w_quantized"].dtype, stored["w_scale"].size) == (f"int{bits}", 64)
        assert stored["w_scale"].max() > 50 * np.median(stored["w_scale"])  # along the output channels, not the others
        near[bits] = sqnr_db(*(open_session(p).run(None, new)[0] for p in (source, path)))
    assert near[8] > 30
    assert near[16] > near[8] + 2


def test_large_weights_go_to_a_file_that_is_written_anew(source, tmp_path, monkeypatch):
    def settings(*args, **options):
        found = asked(*args, **options)
        found.use_external_data_format = True
        return found

    asked, seen = quantizing.get_qnn_qdq_config, []
    monkeypatch.setattr(quantizing, "get_qnn_qdq_config", settings)
    for _ in range(2):
        quantize(source, tmp_path / "q.onnx", calibrate.ranges(source, feeds(2)), "uint8")
        seen.append((tmp_path / "q.onnx.data").stat().st_size)
    assert seen[0] == seen[1] > 0
