"""On Qualcomm's own compiler and emulator: the whole tiny network, and the collapse that silu.py is there for."""

import sys
from typing import get_args

import numpy as np
import one_step
import onnx
import pytest
import torch

from mobilevd.device import calibrate, collapse, htp, rows
from mobilevd.device.fidelity import sqnr_db
from mobilevd.device.quantize import quantize
from mobilevd.device.session import open_session
from mobilevd.device.targets import HOST_CPU, SNAPDRAGON
from mobilevd.device_settings import Effort
from mobilevd.errors import EffectError, MobileVDError

pytest.importorskip("onnxruntime_qnn", reason="Qualcomm's compiler is built for Linux x86-64 alone")


@pytest.fixture(scope="module")
def forms():
    """Both forms of SiLU on this compiler."""
    return collapse.measure(SNAPDRAGON)


def test_norm_sigmoid_mul_collapses_on_the_npu_and_is_caught(forms):
    """When this fails with a newer compiler, silu.py has done its duty and can go."""
    cpu_db, report = forms[collapse.TORCHS]
    assert cpu_db > 35
    assert report.sqnr_db < 5
    with pytest.raises(EffectError, match="computes something else than the CPU"):
        htp.require(report, 15.0)


def test_the_tanh_form_does_not_collapse(forms):
    cpu_db, report = forms[collapse.OURS]
    assert min(cpu_db, report.sqnr_db) > 35
    assert report.sqnr_to_cpu_db > 50
    htp.require(report, 15.0)


def test_both_forms_and_their_noise_are_shown_side_by_side(forms):
    torchs, ours = (list(row.values()) for row in collapse.rows(forms))
    assert torchs == [
        collapse.TORCHS,
        round(forms[collapse.TORCHS].cpu_db, 1),
        round(forms[collapse.TORCHS].npu.sqnr_db, 1),
    ]
    assert ours[0] == collapse.OURS
    assert torchs[2] + 30 < ours[2]


def test_the_tanh_form_is_the_same_function(tmp_path):
    float_path, _, feeds = collapse.graphs(tmp_path, rewritten=True)
    with torch.no_grad():
        wanted = collapse.NormSiluConv()(torch.from_numpy(feeds[0]["x"])).numpy()
    assert sqnr_db(wanted, open_session(float_path).run(None, feeds[0])[0]) > 110
    kinds = [node.op_type for node in onnx.load(float_path).graph.node]
    assert "Sigmoid" not in kinds
    assert kinds.count("Mul") == 2  # the norm's own, halved, and the gate's


def test_weights_of_16_bits_per_channel_stay_on_the_npu_and_are_nearer(forms, tmp_path):
    source, _, feeds = collapse.graphs(tmp_path, rewritten=True)
    weights = [row.weight for row in rows.under(source, 100.0)]
    quantize(source, tmp_path / "wide.onnx", calibrate.ranges(source, feeds), "uint16", weights=weights)
    report = htp.check(source, tmp_path / "wide.onnx", SNAPDRAGON, tmp_path / "context.onnx", feeds)
    assert (len(weights), report.partitions, report.fallbacks) == (2, 1, [])
    assert report.sqnr_db > forms[collapse.OURS].npu.sqnr_db + 10


def test_the_whole_network_is_one_partition_on_the_npu(graphs, tmp_path):
    feeds = one_step.feeds(1, first_seed=9)
    report = htp.check(graphs.float_path, graphs.quantized_path, SNAPDRAGON, tmp_path / "context.onnx", feeds)
    assert (report.partitions, report.fallbacks) == (1, [])
    assert report.sqnr_to_cpu_db > htp.AGREES_DB
    assert 0 < report.context_mb == pytest.approx(sum(p.stat().st_size for p in tmp_path.iterdir()) / 1e6)


def test_an_effort_reaches_the_compiler_and_changes_nothing_that_is_computed(forms, tmp_path):
    source, quantized, feeds = collapse.graphs(tmp_path, rewritten=True)
    binaries = []
    for number, effort in enumerate(("default", "default", "long", "longest")):
        report = htp.check(source, quantized, SNAPDRAGON, tmp_path / str(number) / "c.onnx", feeds, effort)
        assert (report.effort, report.sqnr_db) == (effort, forms[collapse.OURS].npu.sqnr_db)
        [binary] = (tmp_path / str(number)).glob("*.bin")
        binaries.append(binary.read_bytes())
    assert binaries[0] == binaries[1]
    assert len(set(binaries)) == 3


def test_every_effort_of_a_recipe_has_the_compilers_number():
    assert set(htp.EFFORTS) == set(get_args(Effort))


def test_a_device_without_an_npu_is_not_compiled_for(graphs, tmp_path):
    with pytest.raises(MobileVDError, match="no NPU"):
        htp.compile_and_run(graphs.quantized_path, HOST_CPU, tmp_path / "c.onnx")


@pytest.mark.parametrize("partitions", [3, 1], ids=["in three parts", "with a node on the CPU"])
def test_a_graph_that_falls_apart_is_refused_by_its_nodes(partitions):
    report = htp.NpuReport(
        target="t", partitions=partitions, on_cpu=["Add up.1/Add", "QuantizeLinear x"], context_mb=1.0, compile_s=1.0,
        emulated_s=1.0, sqnr_db=40.0, sqnr_to_cpu_db=40.0, effort="default", tools={},
    )  # fmt: skip
    with pytest.raises(EffectError, match="as a whole") as error:
        htp.require(report, 15.0)
    assert error.value.got == f"{partitions} partitions, on the CPU: Add up.1/Add"


def test_a_model_that_is_none_fails_with_the_compilers_words(tmp_path):
    for name in ("broken.onnx", "c.onnx", "c_qnn.bin"):
        (tmp_path / name).write_bytes(np.arange(64, dtype=np.uint8).tobytes())
    with pytest.raises(EffectError, match="compiler failed") as error:
        htp.compile_and_run(tmp_path / "broken.onnx", SNAPDRAGON, tmp_path / "c.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.onnx"]  # what lay there is not taken for the new one
    assert error.value.where == str(tmp_path / "broken.onnx")


@pytest.mark.parametrize(
    ("code", "what", "got"),
    [
        (
            "pathlib.Path(job['compiled']).touch(); os.kill(os.getpid(), 11)",
            "emulated run failed",
            "signal 11 (SIGSEGV)",
        ),
        ("os.kill(os.getpid(), 11)", "compiler failed", "signal 11 (SIGSEGV)"),
        ("pathlib.Path(job['compiled']).touch(); sys.exit('no shape')", "emulated run failed", "exit 1: no shape"),
    ],
)
def test_a_process_that_dies_is_told_by_the_step_it_was_in(code, what, got, tmp_path, monkeypatch):
    stand_in = tmp_path / "python"
    body = f"import json, os, pathlib, sys\njob = json.loads(pathlib.Path(sys.argv[3]).read_text())\n{code}\n"
    stand_in.write_text(f"#!{sys.executable} -S\n{body}", encoding="utf-8")
    stand_in.chmod(0o755)
    monkeypatch.setattr(htp.sys, "executable", str(stand_in))
    with pytest.raises(EffectError, match=what) as error:
        htp.compile_and_run(tmp_path / "m.onnx", SNAPDRAGON, tmp_path / "c.onnx")
    assert error.value.got == got
    assert error.value.where.startswith(str(tmp_path / ("c.onnx" if "run" in what else "m.onnx")))
