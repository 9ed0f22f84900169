"""On Qualcomm's own compiler and emulator: the whole tiny network, and the collapse that silu.py is there for."""

import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import living
import numpy as np
import one_step
import onnx
import products
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


REAL = f"os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])"
MEASURING = """
import sys
from pathlib import Path
import numpy as np
from mobilevd.device import htp
from mobilevd.device.targets import SNAPDRAGON

feed = dict(np.load(sys.argv[1] + "/feed.npz"))
htp.compile_and_run(Path(sys.argv[1]) / "quantized.onnx", SNAPDRAGON, Path(sys.argv[1]) / "c.onnx", [feed] * 3000)
"""


@pytest.fixture(scope="module")
def forms():
    """Both forms of SiLU on this compiler."""
    return collapse.measure(SNAPDRAGON)


def test_norm_sigmoid_mul_collapses_on_the_npu_and_is_caught(forms):
    """When this fails with a newer compiler, silu.py has done its duty and can go."""
    cpu_db, report, _ = forms[collapse.TORCHS]
    assert cpu_db > 35
    assert report.sqnr_db < 5
    with pytest.raises(EffectError, match="computes something else than the CPU"):
        htp.require(report, 15.0)


@pytest.mark.parametrize("bits", [8, 16])
def test_the_npu_takes_a_scale_per_output_channel_of_a_product(tmp_path, bits):
    """ONNX Runtime's settings leave a MatMul one scale, for they say that Qualcomm has no others."""
    source, (seen, new) = products.linear(tmp_path, "MatMul")
    wide = ["w"] if bits == 16 else []
    quantize(source, tmp_path / "quantized.onnx", calibrate.ranges(source, [seen]), "uint16", weights=wide)
    report = htp.check(source, tmp_path / "quantized.onnx", SNAPDRAGON, tmp_path / "context.onnx", [new])
    htp.require(report, 30.0)
    assert report.sqnr_to_cpu_db > 40


def test_the_tanh_form_does_not_collapse(forms):
    cpu_db, report, _ = forms[collapse.OURS]
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


@pytest.mark.parametrize(
    ("touched", "what"), [(True, "The emulated run failed, after"), (False, "The NPU's compiler failed")]
)
def test_torchs_form_may_die_on_the_npu_and_is_shown_so(touched, what, tmp_path, monkeypatch):
    touch = "pathlib.Path(job['compiled']).touch(); " if touched else ""
    stand_in(tmp_path, monkeypatch, f"if b'Sigmoid' in MODEL:\n    {touch}os.kill(os.getpid(), 11)\n{REAL}")
    seen = collapse.measure(SNAPDRAGON)
    torchs, ours = (list(row.values()) for row in collapse.rows(seen))
    assert torchs[1] > 35
    assert torchs[2].startswith(what)
    assert torchs[2].endswith(": signal 11 (SIGSEGV)")
    assert (
        f"{torchs[0]}: nothing ({torchs[2]}) on the NPU, {torchs[1]:.1f} dB to float on the CPU"
        == collapse.said(seen).split("; ")[0]
    )
    assert ours[2] > 35
    assert f"{ours[0]}: {ours[2]:.1f} dB to float on the NPU" in collapse.said(seen)


def test_the_form_that_ships_may_not_die_on_the_npu(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, f"if b'Tanh' in MODEL:\n    os.kill(os.getpid(), 11)\n{REAL}")
    with pytest.raises(EffectError, match="compiler failed"):
        collapse.measure(SNAPDRAGON)


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
    stand_in(tmp_path, monkeypatch, code)
    (tmp_path / "m.onnx").touch()
    with pytest.raises(EffectError, match=what) as error:
        htp.compile_and_run(tmp_path / "m.onnx", SNAPDRAGON, tmp_path / "c.onnx")
    assert error.value.got == got
    assert error.value.where.startswith(str(tmp_path / ("c.onnx" if "run" in what else "m.onnx")))


def test_everything_is_computed_while_nothing_else_is_measured(taken, tmp_path, monkeypatch):
    held = []
    for module, name in ((htp, "_in_own_process"), (htp, "open_session"), (collapse, "quantize")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, real=real: held.append(taken()) or real(*given))
    collapse._seen(tmp_path, True, SNAPDRAGON)
    assert held == [True] * 4
    assert not taken()


@pytest.mark.skipif(sys.platform != "linux", reason="no other system ends a process with its parent")
def test_a_measurement_that_is_killed_takes_its_emulator_along(taken, tmp_path):
    _, _, [feed] = collapse.graphs(tmp_path, rewritten=True)
    np.savez(tmp_path / "feed.npz", **feed)
    until = time.monotonic() + 120
    with subprocess.Popen([sys.executable, "-c", MEASURING, str(tmp_path)]) as measuring:
        while not list((tmp_path / "temporary").glob("htp-*/compiled")):
            assert measuring.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        assert taken()
        [child] = Path(f"/proc/{measuring.pid}/task/{measuring.pid}/children").read_text().split()
        assert "mobilevd.device.emulator" in Path(f"/proc/{child}/cmdline").read_text()
        measuring.kill()
    assert living.ends(child)
    assert not taken()
    assert not list((tmp_path / "temporary").glob("htp-*/answer*"))


def stand_in(folder, monkeypatch, code):
    """Something else than the emulator is started, which knows its ``job`` and MODEL's bytes, and may go on as REAL."""
    body = """import json, os, pathlib, sys
job = json.loads(pathlib.Path(sys.argv[3]).read_text())
MODEL = pathlib.Path(job["model"]).read_bytes()
"""
    script = folder / "python"
    script.write_text(f"#!{sys.executable} -S\n{body}{code}\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setattr(htp.sys, "executable", str(script))
