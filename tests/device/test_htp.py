"""On Qualcomm's own compiler and emulator: the whole tiny network, and the collapse that silu.py is there for."""

import numpy as np
import one_step
import onnx
import pytest
import torch
from torch import nn

from mobilevd.device import calibrate, htp, silu
from mobilevd.device.export import export
from mobilevd.device.fidelity import sqnr_db
from mobilevd.device.inputs import GraphSpec, InputSpec
from mobilevd.device.quantize import quantize
from mobilevd.device.session import open_session
from mobilevd.device.targets import HOST_CPU, SNAPDRAGON
from mobilevd.errors import EffectError, MobileVDError

pytest.importorskip("onnxruntime_qnn", reason="Qualcomm's compiler is built for Linux x86-64 alone")
SPEC = GraphSpec(inputs=(InputSpec(name="x", shape=(2, 8, 8, 8)),), outputs=(InputSpec(name="y", shape=(2, 64, 8, 8)),))


class NormSiluConv(nn.Module):
    """What every ResBlock begins with."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(8, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
        self.norm, self.act = nn.GroupNorm(32, 64), nn.SiLU()
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)
        nn.init.normal_(self.norm.bias, 0.0, 0.3)

    def forward(self, x):
        return self.second(self.act(self.norm(self.first(x))))


def quantized(folder, monkeypatch=None):
    """Float and W8A16 graphs, with the Sigmoid left in when it is ``monkeypatch``ed to be; and a feed."""
    if monkeypatch is not None:
        monkeypatch.setattr(silu, "rewrite", lambda graph: 0)
    export(NormSiluConv(), SPEC, folder / "float.onnx", 18)
    feeds = [SPEC.random(torch.Generator().manual_seed(seed)) for seed in range(3)]
    quantize(folder / "float.onnx", folder / "q.onnx", calibrate.ranges(folder / "float.onnx", feeds), "uint16")
    return folder / "float.onnx", folder / "q.onnx", feeds[:1]


def test_norm_sigmoid_mul_collapses_on_the_npu_and_is_caught(tmp_path, monkeypatch):
    """When this fails with a newer compiler, silu.py has done its duty and can go."""
    float_path, path, feeds = quantized(tmp_path, monkeypatch)
    assert sqnr_db(open_session(float_path).run(None, feeds[0])[0], open_session(path).run(None, feeds[0])[0]) > 35
    report = htp.check(float_path, path, SNAPDRAGON, tmp_path / "c.onnx", feeds)
    assert report.sqnr_db < 5
    with pytest.raises(EffectError, match="computes something else than the CPU"):
        htp.require(report, 15.0)


def test_the_tanh_form_is_the_same_function_and_does_not_collapse(tmp_path):
    float_path, path, feeds = quantized(tmp_path)
    with torch.no_grad():
        wanted = NormSiluConv()(torch.from_numpy(feeds[0]["x"])).numpy()
    assert sqnr_db(wanted, open_session(float_path).run(None, feeds[0])[0]) > 110
    kinds = [node.op_type for node in onnx.load(float_path).graph.node]
    assert "Sigmoid" not in kinds
    assert kinds.count("Mul") == 2  # the norm's own, halved, and the gate's
    report = htp.check(float_path, path, SNAPDRAGON, tmp_path / "c.onnx", feeds)
    assert report.sqnr_db > 35
    assert report.sqnr_to_cpu_db > 50
    htp.require(report, 15.0)


def test_the_whole_network_is_one_partition_on_the_npu(graphs, tmp_path):
    feeds = one_step.feeds(1, first_seed=9)
    report = htp.check(graphs.float_path, graphs.quantized_path, SNAPDRAGON, tmp_path / "context.onnx", feeds)
    assert (report.partitions, report.fallbacks) == (1, [])
    assert report.sqnr_to_cpu_db > htp.AGREES_DB
    assert 0 < report.context_mb == pytest.approx(sum(p.stat().st_size for p in tmp_path.iterdir()) / 1e6)


def test_a_device_without_an_npu_is_not_compiled_for(graphs, tmp_path):
    with pytest.raises(MobileVDError, match="no NPU"):
        htp.compile_and_run(graphs.quantized_path, HOST_CPU, tmp_path / "c.onnx")


def test_a_graph_that_falls_apart_is_refused_by_its_nodes():
    report = htp.NpuReport(
        target="t", partitions=3, on_cpu=["Add up.1/Add", "QuantizeLinear x"], context_mb=1.0, compile_s=1.0,
        emulated_s=1.0, sqnr_db=40.0, sqnr_to_cpu_db=40.0, tools={},
    )  # fmt: skip
    with pytest.raises(EffectError, match=r"3 partitions, on the CPU: Add up\.1/Add$|3 partitions") as error:
        htp.require(report, 15.0)
    assert "QuantizeLinear" not in str(error.value)


def test_a_model_that_is_none_fails_with_the_compilers_words(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(np.arange(64, dtype=np.uint8).tobytes())
    with pytest.raises(EffectError, match="compiler failed"):
        htp.compile_and_run(tmp_path / "broken.onnx", SNAPDRAGON, tmp_path / "c.onnx")
