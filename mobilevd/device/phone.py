"""A network on a real phone at Qualcomm AI Hub: compiled for it, timed on it, compared with float, its binary fetched.

**Source** the service's compile, quantize and inference jobs; what each layer took is in its profile. **Keeps** figures
are the service's own, under the phone's name; what ran off the NPU is listed (``tests/device/test_phone.py``).
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import qai_hub

from mobilevd.artifacts import file_sha256
from mobilevd.device import rollup
from mobilevd.device.fidelity import sqnr_db
from mobilevd.device.hub import GoneError, Hub
from mobilevd.device.profile import Figure, Operator, ProfileReport, percentiles
from mobilevd.device.quiet import quiet
from mobilevd.device.session import open_session
from mobilevd.device.targets import PHONE_PREFIX, Target
from mobilevd.errors import EffectError

Feed = dict[str, np.ndarray]
ACTIVATIONS = {"uint8": qai_hub.QuantizeDtype.INT8, "uint16": qai_hub.QuantizeDtype.INT16}
NPU = "NPU"
SHOWN = 20


class Task(NamedTuple):
    """What is to be measured: the float graph, the one that is compiled, and real inputs for both.

    ``calibration``: with inputs, the service quantizes the float graph itself, to ``activations``; the graph that was
    quantized here is then only compared with.
    """

    float_model: Path
    model: Path
    feeds: Sequence[Feed]
    runtime: str
    runs: int
    activations: str = "uint16"
    calibration: Sequence[Feed] = ()


def measure(hub: Hub, target: Target, task: Task, folder: Path) -> ProfileReport:
    """Compile, profile and run ``task`` on the phone of ``target``; the binary comes to ``folder``.

    Errors: MobileVDError for a token or device that is refused, EffectError for a failed job or other outputs' shapes.
    """
    device = hub.device(target.name.removeprefix(PHONE_PREFIX))
    jobs = _finished(hub, device, task)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        told, outputs, binary = _results(hub, jobs, folder / task.model.stem)
    except GoneError as gone:
        hub.forget(gone)
        jobs = _finished(hub, device, task)
        told, outputs, binary = _results(hub, jobs, folder / task.model.stem)
    with quiet(target.name):
        near = _near(task, outputs)
    figures = _figures(told["execution_summary"]) | near
    size = sum(path.stat().st_size for path in (binary, *binary.rglob("*")) if path.is_file())
    return ProfileReport(
        target=target.name,
        kind=target.kind,
        device=_device(device),
        protocol=_protocol(task, jobs),
        tools={"qai-hub": str(qai_hub.__version__), "service": jobs["profile"].hub_version or "not told"},
        model_sha256=file_sha256(task.model),
        figures=figures | {"binary_mb": Figure(value=size / 1e6, unit="mb")},
        operators=_operators(told["execution_detail"]),
        off_npu=_off_npu(told["execution_detail"]),
        **_by_layer(task, told["execution_detail"]),
    )


def require(report: ProfileReport, min_sqnr_db: float) -> None:
    """Errors: EffectError when the phone computes something else than the float network does."""
    got = report.figures["sqnr_db"].value
    if not got >= min_sqnr_db:
        raise EffectError(
            "The phone computes something else than the float network",
            got=f"{got:.1f} dB to float, {report.figures['sqnr_to_cpu_db'].value:.1f} dB to ONNX Runtime's CPU",
            allowed=f"{min_sqnr_db:g} dB to float, or more",
            where=report.target,
        )


def _finished(hub: Hub, device: qai_hub.Device, task: Task) -> dict[str, qai_hub.Job]:
    jobs: dict[str, qai_hub.Job] = {}
    if task.calibration:
        jobs["quantize"] = hub.finished("quantize", lambda: _quantize(hub, task))
    jobs["compile"] = hub.finished("compile", lambda: _compile(hub, device, task, jobs.get("quantize")))
    jobs["profile"] = hub.finished("profile", lambda: _profile(hub, device, task, jobs["compile"]))
    return jobs


def _results(hub: Hub, jobs: dict[str, qai_hub.Job], stem: Path) -> tuple[dict, dict[str, list[np.ndarray]], Path]:
    """The profile, the phone's outputs, and its binary. Errors: GoneError for what the service no longer has."""
    with hub.plainly("hand over the results"):
        told, outputs = jobs["profile"].download_profile(), jobs["profile"].download_output_data()
        return told, outputs, Path(jobs["compile"].get_target_model().download(str(stem)))


def _quantize(hub: Hub, task: Task) -> qai_hub.QuantizeJob:
    return hub.client.submit_quantize_job(
        hub.upload(task.float_model),
        _columns(task.calibration),
        qai_hub.QuantizeDtype.INT8,
        ACTIVATIONS[task.activations],
        name=f"mobilevd {task.float_model.stem}",
    )


def _compile(hub: Hub, device: qai_hub.Device, task: Task, quantized: qai_hub.QuantizeJob | None) -> qai_hub.CompileJob:
    model = quantized.get_target_model() if quantized else hub.upload(task.model)
    options = f"--target_runtime {task.runtime}"
    return hub.client.submit_compile_job(model, device, name=f"mobilevd {task.model.stem}", options=options)


def _profile(hub: Hub, device: qai_hub.Device, task: Task, compiled: qai_hub.CompileJob) -> qai_hub.InferenceJob:
    model, options = compiled.get_target_model(), f"--max_profiler_iterations {task.runs}"
    inputs, name = _columns(task.feeds), f"mobilevd {task.model.stem}"
    return hub.client.submit_inference_job(model, device, inputs, name=name, options=options, profile=True)


def _columns(feeds: Sequence[Feed]) -> dict[str, list[np.ndarray]]:
    return {name: [feed[name] for feed in feeds] for name in feeds[0]}


def _figures(summary: dict) -> dict[str, Figure]:
    """µs and bytes of the service's summary as ms and MB; what it does not tell is left out."""
    runs = [time / 1e3 for time in summary.get("all_inference_times") or ()]
    values = percentiles(runs)
    values |= {"min_ms": min(runs)} if runs else {}
    told = {
        "estimated_ms": ("estimated_inference_time", 1e3),
        "cold_start_ms": ("first_load_time", 1e3),
        "warm_start_ms": ("warm_load_time", 1e3),
        "peak_memory_mb": ("estimated_inference_peak_memory", 1e6),
    }
    values |= {name: summary[key] / scale for name, (key, scale) in told.items() if summary.get(key)}
    return {name: Figure(value=value, unit=name.rpartition("_")[2]) for name, value in values.items()}


def _near(task: Task, outputs: dict[str, list[np.ndarray]]) -> dict[str, Figure]:
    """SQNR in dB of what the phone computed, the lowest of all inputs. Errors: EffectError for other shapes."""
    [values] = outputs.values()
    against = {"sqnr_db": open_session(task.float_model), "sqnr_to_cpu_db": open_session(task.model)}
    return {
        name: Figure(
            value=min(sqnr_db(net.run(None, f)[0], y) for f, y in zip(task.feeds, values, strict=True)), unit="db"
        )
        for name, net in against.items()
    }


def _operators(layers: list[dict]) -> list[Operator]:
    """Layers rolled up by type, the slowest first."""
    ms, nodes = defaultdict(float), defaultdict(int)
    for layer in layers:
        ms[layer["type"]] += layer.get("execution_time", 0) / 1e3
        nodes[layer["type"]] += 1
    whole = sum(ms.values()) or 1.0
    slowest = sorted(ms, key=ms.__getitem__, reverse=True)
    return [Operator(kind=kind, nodes=nodes[kind], ms=ms[kind], share=ms[kind] / whole) for kind in slowest]


def _by_layer(task: Task, layers: list[dict]) -> dict[str, dict[str, float]]:
    """ms by kind of layer and by block, where the phone's layers have our graph's names."""
    graph = onnx.load(task.model, load_external_data=False).graph
    return rollup.told([(layer["name"], layer.get("execution_time", 0) / 1e3) for layer in layers], graph)


def _off_npu(layers: list[dict]) -> list[str]:
    off = [layer for layer in layers if layer["compute_unit"] != NPU]
    said = [f"{layer['compute_unit']}: {layer['name']} ({layer['type']})" for layer in off[:SHOWN]]
    return said + ([f"and {len(off) - SHOWN} more"] if len(off) > SHOWN else [])


def _device(device: qai_hub.Device) -> dict[str, str]:
    chips = [a.removeprefix("chipset:") for a in device.attributes if a.startswith("chipset:")]
    return {"processor": ", ".join(chips) or device.name, "system": f"{device.name}, system {device.os}"}


def _protocol(task: Task, jobs: dict[str, qai_hub.Job]) -> dict[str, str]:
    return {
        "runs": f"{task.runs} in all on {len(task.feeds)} real inputs, batch 1, counted by the service",
        "runtime": task.runtime,
        "quantized": "by the service" if "quantize" in jobs else "before it was uploaded",
        **{f"{kind} job": job.url for kind, job in jobs.items()},
    }
