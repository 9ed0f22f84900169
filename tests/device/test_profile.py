import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import one_step
import pytest

from mobilevd.device import bench
from mobilevd.device import profile as profiling
from mobilevd.device.profile import ProfileReport, named, operators_of, profile
from mobilevd.device.targets import HOST_CPU, find
from mobilevd.errors import EffectError


@pytest.fixture(scope="module")
def report(graphs):
    """Profiled by a parent that holds 500 MB, which the measured process must not be blamed for."""
    ballast = np.ones(62_500_000)
    made = profile(graphs.float_path, one_step.feeds(1)[0], HOST_CPU, warmup=1, repeats=10, threads=1)
    del ballast
    return made


def test_the_peak_memory_is_the_measured_process_own(report):
    assert 20 < report.figures["memory_before_mb"].value < report.figures["peak_memory_mb"].value < 350


def test_percentiles_are_in_order_and_the_units_are_said(report):
    values = {name: figure.value for name, figure in report.figures.items()}
    assert 0 < values["min_ms"] <= values["p50_ms"] <= values["p90_ms"]
    assert values["cold_start_ms"] > 0
    assert (report.figures["p50_ms"].unit, report.figures["peak_memory_mb"].unit) == ("ms", "mb")


def test_the_operators_shares_are_whole_and_their_time_is_within_the_run(report):
    assert sum(operator.share for operator in report.operators) == pytest.approx(1.0)
    assert {"Conv", "MatMul"} & {operator.kind.removeprefix("Fused") for operator in report.operators}
    assert sum(operator.ms for operator in report.operators) < 20 * report.figures["p90_ms"].value


def test_figures_carry_the_device_they_were_measured_on(report):
    assert named(report, HOST_CPU)["profile.host-cpu.p50_ms"] == report.figures["p50_ms"].value
    assert "profile.host-cpu.float_p50_ms" in named(report, HOST_CPU, "float_")


def test_a_host_figure_is_refused_in_a_phones_name(report):
    with pytest.raises(EffectError, match="another device's name"):
        named(report, find("qai-hub:Samsung Galaxy S24"))


def test_the_report_is_read_back_and_an_unknown_key_in_it_is_refused(report, tmp_path):
    report.save(tmp_path / "report.json")
    values = json.loads((tmp_path / "report.json").read_text())
    assert ProfileReport.model_validate(values) == report
    assert values["tools"].keys() == {"onnxruntime", "numpy", "python"}
    with pytest.raises(ValueError, match="extra"):
        ProfileReport.model_validate(values | {"extra": 1})


def test_a_measured_process_that_fails_says_why(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(EffectError, match="profiled process failed"):
        profile(tmp_path / "broken.onnx", one_step.feeds(1)[0], HOST_CPU, 0, 1)


def test_a_trace_is_rolled_up_by_operator_type_per_run():
    def event(name, kind, dur, cat="Node"):
        return {"cat": cat, "name": name, "dur": dur, "args": {"op_name": kind}}

    events = [
        event("a_kernel_time", "Conv", 3000),
        event("a_kernel_time", "Conv", 5000),
        event("b_kernel_time", "Add", 2000),
    ]
    events += [event("a_fence_before", "Conv", 9000), event("model_run", "", 9000, cat="Session")]
    conv, add = operators_of(events, runs=2)
    assert (conv.kind, conv.nodes, conv.ms, conv.share) == ("Conv", 1, 4.0, 0.8)
    assert (add.kind, add.nodes, add.ms) == ("Add", 1, 1.0)


def test_a_run_without_a_pause_says_how_much_slower_it_gets(graphs, report):
    sustained = profile(graphs.float_path, one_step.feeds(1)[0], HOST_CPU, 0, 1, threads=1, sustain_s=0.3)
    assert sustained.figures["sustained_p50_ms"].value > 0
    assert sustained.figures["sustained_ratio"].value > 0.1
    assert "0.3 s" in sustained.protocol["sustained"]
    assert not [name for name in report.figures if name.startswith("sustained")]
    assert profiling._sustained(np.array([1.0] * 10 + [2.0] * 90))["sustained_ratio"] == 2.0


def test_a_percentile_is_told_from_as_many_runs_as_make_it_one():
    assert list(profiling.percentiles(np.arange(9.0))) == ["p50_ms"]
    assert list(profiling.percentiles(np.arange(99.0))) == ["p50_ms", "p90_ms"]
    assert profiling.percentiles(np.arange(101.0)) == {"p50_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0}
    assert profiling._sustained(np.array([3.0])) == {"sustained_p50_ms": 3.0}  # a run over itself is no ratio


def test_a_minute_of_runs_is_enough_but_not_one_alone(monkeypatch):
    monkeypatch.setattr(bench, "LONGEST_S", 0.05)
    slow = SimpleNamespace(run=lambda *_: time.sleep(0.02))
    assert len(bench._repeated(slow, {}, 100)) == bench.LEAST
    assert len(bench._repeated(slow, {}, 2)) == 2
    assert len(bench._repeated(SimpleNamespace(run=lambda *_: None), {}, 40)) == 40


def test_every_millisecond_of_the_trace_has_a_block_and_a_kind(report):
    whole = sum(operator.ms for operator in report.operators)
    assert sum(report.blocks.values()) == pytest.approx(whole)
    assert sum(report.kinds.values()) == pytest.approx(whole)
    assert report.blocks.keys() >= {"conv_in", "mid_block"}
    assert report.figures["warm_start_ms"].value > 0


def test_the_schema_in_the_documents_is_the_reports():
    path = Path(__file__).resolve().parents[2] / "docs" / "profile.schema.json"
    assert json.loads(path.read_text(encoding="utf-8")) == ProfileReport.model_json_schema()


def test_the_measured_process_loads_no_torch(graphs, tmp_path):
    seen, _ = profiling._measure(graphs.float_path, one_step.feeds(1)[0], 0, 1, 1, tmp_path)
    assert not seen["torch_loaded"]
