"""Qualcomm's quantizer on the tiny network of the other tests."""

import numpy as np
import one_step
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from mobilevd.device import aimet, htp, noise
from mobilevd.device.export import export
from mobilevd.device.fidelity import sqnr_db
from mobilevd.device.inputs import GraphSpec, InputSpec
from mobilevd.device.session import open_session
from mobilevd.device.targets import find

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


def weights(path):
    """Name of every convolution → its stored weights, whole numbers times their scales."""
    graph = onnx.load(path).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made = {node.output[0]: node for node in graph.node}
    ends = {node.name: made[node.input[1]] for node in graph.node if node.op_type == "Conv"}
    return {name: stored[node.input[0]] for name, node in ends.items()}


def test_every_layer_is_quantized_and_stays_near_float(graphs, w8a16):
    path, kinds = w8a16
    found = {kind.kind: (kind.nodes, kind.quantized) for kind in kinds}
    assert found["Conv"][0] == found["Conv"][1] > 10
    assert near(graphs, path) > 25
    assert {values.dtype for values in weights(path).values()} == {np.dtype("int8")}


def test_the_noise_of_each_block_is_told(graphs, w8a16):
    blocks = noise.by_block(graphs.float_path, w8a16[0], one_step.feeds(1)[0])
    assert {"conv_in", "down_blocks.0", "mid_block", "conv_out"} <= blocks.keys()
    assert min(blocks.values()) > 20


def test_eight_bit_activations_are_farther_from_float(graphs, w8a16, tmp_path):
    path, _ = made(graphs, tmp_path, "uint8")
    assert 5 < near(graphs, path) < near(graphs, w8a16[0])


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


@pytest.mark.parametrize("how", [{"rounding": "adaround", "iterations": 400}, {"rounding": "seq_mse"}])
def test_weights_may_be_rounded_by_what_comes_out(tmp_path, how):
    value = InputSpec(name="x", shape=(2, 4, 8, 8))
    spec = GraphSpec(inputs=(value,), outputs=(value.model_copy(update={"name": "y"}),))
    export(TwoLayers(), spec, tmp_path / "float.onnx", 20)
    feeds = [spec.random(torch.Generator().manual_seed(seed)) for seed in range(2)]
    for feed in feeds:
        feed["x"][:, 0] *= 1e-3  # so that the large weight hardly counts, and its range costs the others
    for name, options in {"plain": {}, "rounded": how}.items():
        aimet.quantize(tmp_path / "float.onnx", tmp_path / f"{name}.onnx", feeds, "uint16", **options)
    plain, rounded = weights(tmp_path / "plain.onnx"), weights(tmp_path / "rounded.onnx")
    assert plain.keys() == rounded.keys()
    assert any(not np.array_equal(plain[name], rounded[name]) for name in plain)
    wanted, without, with_it = (
        open_session(tmp_path / f"{name}.onnx").run(None, feeds[0])[0] for name in ("float", "plain", "rounded")
    )
    assert sqnr_db(wanted, with_it) > sqnr_db(wanted, without)


def test_the_npu_takes_the_whole_graph(graphs, w8a16, tmp_path):
    pytest.importorskip("onnxruntime_qnn", reason="Qualcomm's compiler is built for Linux x86-64 alone")
    feeds = one_step.feeds(1)
    report = htp.check(graphs.float_path, w8a16[0], find("snapdragon-8-gen-3"), tmp_path / "npu.onnx", feeds)
    htp.require(report, 25.0)
