"""Qualcomm's quantizer on the tiny network of the other tests."""

import numpy as np
import one_step
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from mobilevd.device import aimet, htp, noise
from mobilevd.device.export import export
from mobilevd.device.fidelity import sqnr_db
from mobilevd.device.inputs import GraphSpec, InputSpec
from mobilevd.device.session import open_session
from mobilevd.device.targets import find
from mobilevd.errors import EffectError

pytest.importorskip("aimet_onnx", reason="Qualcomm's quantizer is built for Linux x86-64 alone")


def made(graphs, folder, activations="uint16", **how):
    path = folder / "quantized.onnx"
    return path, aimet.quantize(graphs.float_path, path, one_step.feeds(2), activations, **how)


def near(graphs, path):
    """SQNR on inputs that calibration did not see."""
    nets = open_session(graphs.float_path), open_session(path)
    return min(sqnr_db(*(net.run(None, feed)[0] for net in nets)) for feed in one_step.feeds(2, first_seed=7))


@pytest.fixture(scope="module")
def w8a16(graphs, tmp_path_factory):
    return made(graphs, tmp_path_factory.mktemp("aimet"))


def weights(path, which=1):
    """Name of every convolution → its stored weights, or (2) biases: whole numbers times their scales."""
    graph = onnx.load(path).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made = {node.output[0]: node for node in graph.node}
    ends = {node.name: made[node.input[which]] for node in graph.node if node.op_type == "Conv"}
    return {name: stored[node.input[0]] for name, node in ends.items()}


def test_every_layer_is_quantized_and_stays_near_float(graphs, w8a16):
    path, kinds = w8a16
    found = {kind.kind: (kind.nodes, kind.quantized) for kind in kinds}
    assert found["Conv"][0] == found["Conv"][1] > 10
    assert near(graphs, path) > 25
    assert {values.dtype.name for values in weights(path).values()} == {"int8"}
    assert {values.dtype.name for values in weights(path, 2).values()} == {"int32"}


def test_the_noise_of_each_block_is_told(graphs, w8a16):
    blocks = noise.blocks(noise.by_layer(graphs.float_path, w8a16[0], one_step.feeds(1)[0]))
    assert {"conv_in", "down_blocks.0", "mid_block", "conv_out"} <= blocks.keys()
    assert min(blocks.values()) > 20


def widths(path):
    """The types that activations are quantized to."""
    graph = onnx.load(path).graph
    stored = {tensor.name: numpy_helper.to_array(tensor).dtype.name for tensor in graph.initializer}
    return {stored[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"}


def test_eight_bit_activations_are_farther_from_float(graphs, w8a16, tmp_path):
    path, _ = made(graphs, tmp_path, "uint8")
    assert (widths(path), widths(w8a16[0])) == ({"uint8"}, {"uint16"})
    assert 5 < near(graphs, path) < near(graphs, w8a16[0])


def test_values_beyond_the_calibrated_range_are_not_clipped_at_16_bits(graphs, w8a16):
    feed = one_step.feeds(1)[0]
    feed["token"] = 1.4 * feed["token"]
    wanted, got = (open_session(path).run(None, feed)[0] for path in (graphs.float_path, w8a16[0]))
    assert sqnr_db(wanted, got) > 30


class TwoLayers(nn.Module):
    """Two convolutions; one weight of the first is far larger than the others."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        with torch.no_grad():
            self.first.weight[:, 0, 0, 0] = 8.0

    def forward(self, x):
        return self.second(self.first(x).relu())


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    """Its float graph, and inputs whose first channel hardly counts: the large weight's range costs the others."""
    path, value = tmp_path_factory.mktemp("layers") / "float.onnx", InputSpec(name="x", shape=(2, 4, 8, 8))
    spec = GraphSpec(inputs=(value,), outputs=(value.model_copy(update={"name": "y"}),))
    export(TwoLayers(), spec, path, 20)
    feeds = [spec.random(torch.Generator().manual_seed(seed)) for seed in range(2)]
    for feed in feeds:
        feed["x"][:, 0] *= 1e-3
    return path, feeds


@pytest.mark.parametrize("how", [{"rounding": "adaround", "iterations": 400}, {"rounding": "seq_mse"}])
def test_weights_may_be_rounded_by_what_comes_out(layers, tmp_path, how):
    source, feeds = layers
    for name, options in {"plain": {}, "rounded": how}.items():
        aimet.quantize(source, tmp_path / f"{name}.onnx", feeds, "uint16", **options)
    plain, rounded = weights(tmp_path / "plain.onnx"), weights(tmp_path / "rounded.onnx")
    assert plain.keys() == rounded.keys()
    assert any(not np.array_equal(plain[name], rounded[name]) for name in plain)
    paths = (source, tmp_path / "plain.onnx", tmp_path / "rounded.onnx")
    wanted, without, with_it = (open_session(path).run(None, feeds[0])[0] for path in paths)
    assert sqnr_db(wanted, with_it) > sqnr_db(wanted, without)


def test_named_weights_have_16_bits_beside_16_bit_activations_alone(layers, tmp_path):
    source, feeds = layers
    [first, _] = [node.input[1] for node in onnx.load(source).graph.node if node.op_type == "Conv"]
    for activations in ("uint16", "uint8"):
        aimet.quantize(source, tmp_path / f"{activations}.onnx", feeds, activations, weights=[first])
    aimet.quantize(source, tmp_path / "plain.onnx", feeds, "uint16")
    types = {name: [v.dtype.name for v in weights(tmp_path / f"{name}.onnx").values()] for name in ("uint16", "uint8")}
    assert types == {"uint16": ["int16", "int8"], "uint8": ["int8", "int8"]}
    paths = (source, tmp_path / "plain.onnx", tmp_path / "uint16.onnx")
    wanted, without, with_it = (open_session(path).run(None, feeds[0])[0] for path in paths)
    assert sqnr_db(wanted, with_it) > sqnr_db(wanted, without) + 10


def test_a_weight_that_the_toolkit_left_in_float_is_caught(layers, tmp_path, monkeypatch):
    import aimet_onnx

    def careless(*args, **options):
        sim = real(*args, **options)
        for name in sim.param_names:
            sim.qc_quantize_op_dict[name].enabled = False
        return sim

    real = aimet_onnx.QuantizationSimModel
    monkeypatch.setattr(aimet_onnx, "QuantizationSimModel", careless)
    with pytest.raises(EffectError, match="left weights in float\n  got:     2 of 2 layers"):
        aimet.quantize(layers[0], tmp_path / "q.onnx", layers[1], "uint16")


@pytest.mark.parametrize(("limit", "files"), [(100, ["q.onnx", "q.onnx.data"]), (10_000, ["q.onnx"])])
def test_large_weights_go_to_a_file_beside_the_graph(tmp_path, monkeypatch, limit, files):
    monkeypatch.setattr(aimet, "EXTERNAL_ABOVE", limit)
    weight = np.arange(600, dtype=np.float32)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [600]) for name in "xy")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])], "g", [x], [y], [numpy_helper.from_array(weight, "w")]
    )
    for _ in range(2):  # what was there is gone
        aimet._save(helper.make_model(graph), tmp_path / "q.onnx")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2 * weight.nbytes
    assert [path.name for path in sorted(tmp_path.iterdir())] == files
    assert np.array_equal(numpy_helper.to_array(onnx.load(tmp_path / "q.onnx").graph.initializer[0]), weight)


def test_the_npu_takes_the_whole_graph(graphs, w8a16, tmp_path):
    pytest.importorskip("onnxruntime_qnn", reason="Qualcomm's compiler is built for Linux x86-64 alone")
    feeds = one_step.feeds(1)
    report = htp.check(graphs.float_path, w8a16[0], find("snapdragon-8-gen-3"), tmp_path / "npu.onnx", feeds)
    htp.require(report, 25.0)
