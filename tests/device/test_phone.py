from pathlib import Path
from typing import NamedTuple

import aihub
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from mobilevd.device import calibrate, hub, phone
from mobilevd.device.hub import Hub
from mobilevd.device.inputs import GraphSpec, InputSpec
from mobilevd.device.quantize import quantize
from mobilevd.device.targets import find
from mobilevd.errors import EffectError, MobileVDError

TARGET = find("qai-hub:Samsung Galaxy S24")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    made = aihub.AiHub()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QAIHUB_CLIENT_INI", str(made.configure(tmp_path_factory.mktemp("ini"))))
        yield made
    made.close()


SPEC = GraphSpec(inputs=(InputSpec(name="x", shape=(1, 4, 8, 8)),), outputs=(InputSpec(name="y", shape=(1, 4, 8, 8)),))


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """Two convolutions, in float and quantized."""
    folder, g = tmp_path_factory.mktemp("graphs"), np.random.default_rng(0)
    stored = [numpy_helper.from_array(g.normal(size=(4, 4, 3, 3)).astype(np.float32) / 6, n) for n in ("v", "w")]
    nodes = [helper.make_node("Conv", ["x", "v"], ["h"], "first", pads=[1, 1, 1, 1])]
    nodes.append(helper.make_node("Conv", ["h", "w"], ["y"], "second", pads=[1, 1, 1, 1]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SPEC.inputs[0].shape) for name in "xy"]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    both = Both(folder / "float.onnx", folder / "quantized.onnx")
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), both.float_path)
    quantize(both.float_path, both.quantized_path, calibrate.ranges(both.float_path, feeds(2)), "uint16")
    return both


class Both(NamedTuple):
    float_path: Path
    quantized_path: Path


def feeds(count, first_seed=0):
    return [SPEC.random(torch.Generator().manual_seed(first_seed + k)) for k in range(count)]


def task(graphs, **changes):
    return phone.Task(*graphs, feeds(2), "qnn_context_binary", 100)._replace(**changes)


def measured(folder, wanted):
    return phone.measure(Hub(folder / "jobs", {"of": str(folder)}, 20.0, poll_s=0.01), TARGET, wanted, folder / "phone")


@pytest.fixture(scope="module")
def report(service, graphs, tmp_path_factory):
    return measured(tmp_path_factory.mktemp("phone"), task(graphs))


def test_times_are_the_phones_own_in_ms(report):
    values = {name: figure.value for name, figure in report.figures.items()}
    assert values["p50_ms"] == 2.5
    assert not values.keys() & {"p90_ms", "p99_ms"}  # of four runs there is none
    assert (values["estimated_ms"], values["cold_start_ms"], values["warm_start_ms"]) == (1.5, 90.0, 30.0)
    assert values["peak_memory_mb"] == 50.0
    assert (report.target, report.kind) == (TARGET.name, "phone")


def test_the_outputs_are_compared_with_float_and_with_this_cpu(report):
    assert 20 < report.figures["sqnr_db"].value < 80
    assert report.figures["sqnr_to_cpu_db"].value > 100
    phone.require(report, 20.0)


def test_layers_are_rolled_up_and_those_off_the_npu_are_named(report):
    first = report.operators[0]
    assert (first.kind, first.nodes, first.ms) == ("Conv2d", 1, 0.7)
    assert [o.share for o in report.operators] == pytest.approx([0.7 / 1.2, 0.3 / 1.2, 0.2 / 1.2])
    assert report.off_npu == ["CPU: gelu (Gelu)"]
    assert report.blocks == {}  # the service's names are not our graph's


def test_layers_under_our_graphs_names_are_rolled_up_by_block(graphs):
    layers = [{"name": "first", "execution_time": 700}, {"name": "second", "execution_time": 300}]
    model = onnx.load(graphs.float_path)
    for node, name in zip(model.graph.node, ("unet.conv_in/Conv", "unet.mid_block.resnets.0.conv1/Conv"), strict=True):
        node.name = name
    onnx.save(model, graphs.float_path.with_name("named.onnx"))
    asked = task(graphs, model=graphs.float_path.with_name("named.onnx"))
    named = [layer | {"name": node.name} for layer, node in zip(layers, model.graph.node, strict=True)]
    assert phone._by_layer(asked, named)["blocks"] == {"conv_in": 0.7, "mid_block": 0.3}
    assert phone._by_layer(asked, [{"name": "", "execution_time": 5}]) == {}


def test_the_service_is_asked_for_profiled_runs_on_the_npus_binary(service, report):
    [inference] = [service.jobs[name].inference_job for name in service.submitted("inference")[:1]]
    assert inference.is_profiling_on
    assert inference.options == "--max_profiler_iterations 100"
    assert service.jobs[service.submitted("compile")[0]].compile_job.options == "--target_runtime qnn_context_binary"
    assert report.protocol["profile job"].endswith(f"/jobs/{service.submitted('inference')[0]}/")


def test_the_outputs_are_compared_while_nothing_else_is_measured(service, graphs, tmp_path, taken, monkeypatch):
    held, open_session = [], phone.open_session
    monkeypatch.setattr(phone, "open_session", lambda path: held.append(taken()) or open_session(path))
    measured(tmp_path, task(graphs))
    assert held == [True, True]
    assert not taken()


@pytest.mark.parametrize("kind", ["inference", "compile"])
def test_results_that_the_service_no_longer_has_are_made_anew(service, graphs, tmp_path, monkeypatch, kind):
    told = []
    monkeypatch.setattr(hub, "say", told.append)
    first = measured(tmp_path, task(graphs))
    service.expired.add(service.submitted(kind)[-1])
    again = measured(tmp_path, task(graphs))
    assert again.figures == first.figures
    for job in ("compile job", "profile job"):
        assert again.protocol[job] != first.protocol[job]
    assert [line for line in told if "which are submitted anew" in line]
    assert measured(tmp_path, task(graphs)).protocol == again.protocol


def test_results_of_new_jobs_that_are_not_there_are_an_error(service, graphs, tmp_path, monkeypatch):
    monkeypatch.setattr(service, "expired", service.jobs)
    before = len(service.jobs)
    with pytest.raises(
        MobileVDError, match="did not hand over the results\n  got:     Cannot download expired dataset"
    ):
        measured(tmp_path, task(graphs))
    assert len(service.jobs) == before + 2


def test_the_binary_comes_home(service, graphs, tmp_path):
    made = measured(tmp_path, task(graphs))
    assert (tmp_path / "phone" / "quantized.bin").read_bytes() == graphs.quantized_path.read_bytes()
    assert made.figures["binary_mb"].value == pytest.approx(graphs.quantized_path.stat().st_size / 1e6)


def test_the_service_may_quantize_the_float_graph(service, graphs, tmp_path):
    made = measured(tmp_path, task(graphs, calibration=feeds(2, first_seed=9), activations="uint8"))
    job = service.jobs[service.submitted("quantize")[0]].quantize_job
    assert (job.weights_dtype, job.activations_dtype) == (1, 1)
    assert service.bytes_of(job.model.model_id) == graphs.float_path.read_bytes()
    assert made.protocol["quantized"] == "by the service"


def test_a_phone_that_computes_something_else_on_one_input_is_refused(service, graphs, tmp_path, monkeypatch):
    monkeypatch.setattr(service, "noise", 100.0)
    with pytest.raises(EffectError, match="something else than the float network"):
        phone.require(measured(tmp_path, task(graphs)), 20.0)
