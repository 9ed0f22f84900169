"""A graph compiled offline for a Snapdragon's NPU and run on Qualcomm's emulator of it: does it fit, is it right?

**Source** ONNX Runtime's QNN provider, context binaries. **Keeps** what the emulator computes is compared with float
and with ONNX Runtime's CPU; the emulator's speed is the host's, so no latency is taken (``tests/device/test_htp.py``).
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from pydantic import BaseModel, ConfigDict

from mobilevd.artifacts import write_json
from mobilevd.device.fidelity import sqnr_db
from mobilevd.device.quiet import quiet
from mobilevd.device.session import open_session
from mobilevd.device.targets import Target
from mobilevd.device_settings import Effort
from mobilevd.errors import EffectError, MobileVDError

BORDER = ("QuantizeLinear", "DequantizeLinear")  # of the graph's own inputs and outputs: they run where the data is
AGREES_DB = 25.0
EFFORTS: dict[Effort, int] = {"default": 0, "long": 2, "longest": 3}  # 1, the shortest, came out as noise
MB = 1e6

Feed = dict[str, np.ndarray]


class NpuReport(BaseModel):
    """What came of a compilation: how much of the graph is on the NPU, how large, how near; never how fast."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    target: str
    partitions: int
    on_cpu: list[str]
    context_mb: float
    compile_s: float
    emulated_s: float
    effort: Effort
    sqnr_db: float | None = None
    sqnr_to_cpu_db: float | None = None
    tools: dict[str, str]

    @property
    def fallbacks(self) -> list[str]:
        """Nodes that the NPU left to the CPU, besides the quantization of the graph's own inputs and outputs."""
        return [node for node in self.on_cpu if node.split()[0] not in BORDER]

    def save(self, path: Path) -> None:
        """Write the report as JSON."""
        write_json(path, self.model_dump(mode="json"))


def compile_and_run(
    model: Path, target: Target, context: Path, feeds: Sequence[Feed] = (), effort: Effort = "default"
) -> tuple[NpuReport, list[np.ndarray]]:
    """Compile ``model`` into ``context`` (with its binary beside it); the first output for every feed, emulated.

    ``effort``: how long the compiler looks for a graph that is faster on the phone. Waits for other measurements.
    Errors: MobileVDError for a target without an NPU or a machine without the toolchain, EffectError when it fails.
    """
    if target.soc_model is None:
        raise MobileVDError("This device has no NPU to compile for", got=target.name, allowed="snapdragon-8-gen-3")
    require_installed()
    context = Path(context).resolve()
    context.parent.mkdir(parents=True, exist_ok=True)
    for old in _files(context):
        old.unlink()
    with TemporaryDirectory(prefix="htp-") as aside, quiet(target.name):
        seen, outputs = _in_own_process(Path(model), target, context, feeds, effort, Path(aside))
    size = sum(path.stat().st_size for path in _files(context)) / MB
    report = NpuReport(
        target=target.name,
        partitions=seen["partitions"],
        on_cpu=seen["on_cpu"],
        context_mb=size,
        compile_s=seen["compile_s"],
        emulated_s=seen["run_s"],
        effort=effort,
        tools=seen["tools"],
    )
    return report, outputs


def require_installed() -> None:
    """Errors: MobileVDError on a machine without the toolchain."""
    if importlib.util.find_spec("onnxruntime_qnn") is None:
        allowed = "pip install 'mobilevd[device]', on Linux x86-64"
        raise MobileVDError("Qualcomm's compiler is not installed", got="no onnxruntime_qnn", allowed=allowed)


def check(
    float_model: Path, model: Path, target: Target, context: Path, feeds: Sequence[Feed], effort: Effort = "default"
) -> NpuReport:
    """Compile ``model``, emulate it on ``feeds``, and compare with the float graph and with ``model`` on this CPU."""
    report, emulated = compile_and_run(model, target, context, feeds, effort)
    with quiet(target.name):
        float_net, cpu_net = open_session(float_model), open_session(model)
        near = min(sqnr_db(float_net.run(None, f)[0], y) for f, y in zip(feeds, emulated, strict=True))
        same = min(sqnr_db(cpu_net.run(None, f)[0], y) for f, y in zip(feeds, emulated, strict=True))
    return report.model_copy(update={"sqnr_db": near, "sqnr_to_cpu_db": same})


def inputs_of(context: Path) -> dict[str, str]:
    """Input of the NPU's graph → the input of ours that it is made from, which the border may quantize first."""
    graph = onnx.load(context, load_external_data=False).graph
    made = {output: node.input[0] for node in graph.node for output in node.output}
    [compiled] = [node for node in graph.node if node.op_type == "EPContext"]
    return {name: made.get(name, name) for name in compiled.input}


def require(report: NpuReport, min_sqnr_db: float) -> None:
    """Errors: EffectError when nodes fell off the NPU, or it computes something else than the CPU does."""
    if report.partitions != 1 or report.fallbacks:
        raise EffectError(
            "The graph does not run on the NPU as a whole",
            got=f"{report.partitions} partitions, on the CPU: {', '.join(report.fallbacks[:8]) or 'none'}",
            allowed="one partition, nothing on the CPU",
            where=report.target,
        )
    if not (report.sqnr_db >= min_sqnr_db and report.sqnr_to_cpu_db >= AGREES_DB):
        raise EffectError(
            "The NPU computes something else than the CPU does on the same graph",
            got=f"{report.sqnr_db:.1f} dB to float, {report.sqnr_to_cpu_db:.1f} dB to ONNX Runtime's CPU",
            allowed=f"{min_sqnr_db:g} dB to float and {AGREES_DB:g} dB to the CPU, or more; at 16-bit activations a "
            "norm followed by Sigmoid and Mul collapses so (docs/device.md): mobilevd.device.silu writes it exactly",
            where=report.target,
        )


def _in_own_process(
    model: Path, target: Target, context: Path, feeds: Sequence[Feed], effort: Effort, aside: Path
) -> tuple[dict, list[np.ndarray]]:
    paths = []
    for index, feed in enumerate(feeds):
        paths.append(str(aside / f"feed{index}.npz"))
        np.savez(paths[-1], **feed)
    job = {
        "model": str(model.resolve()),
        "context": str(context),
        "soc_model": target.soc_model,
        "htp_arch": target.htp_arch,
        "effort": EFFORTS[effort],
        "feeds": paths,
        "outputs": None,
        "compiled": str(aside / "compiled"),
        "answer": str(aside / "answer.json"),
        "parent": os.getpid(),
    }
    write_json(aside / "job.json", job)
    command = [sys.executable, "-m", "mobilevd.device.emulator", str(aside / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=aside)
    if done.returncode != 0:
        raise _failed(done, model, context if (aside / "compiled").is_file() else None)
    with np.load(job["answer"] + ".npz", allow_pickle=False) as stored:
        outputs = [stored[str(index)] for index in range(len(feeds))]
    return json.loads((aside / "answer.json").read_text(encoding="utf-8")), outputs


def _failed(done: subprocess.CompletedProcess, model: Path, compiled: Path | None) -> EffectError:
    """Which step failed: the compiler's, or the emulated run of the binary that it had written."""
    died = done.returncode < 0
    end = f"signal {-done.returncode} ({signal.Signals(-done.returncode).name})" if died else f"exit {done.returncode}"
    got = ": ".join(filter(None, (end, " ".join(done.stderr.strip().splitlines()[-3:]))))
    if compiled is None:
        allowed = "a binary and exit 0; mobilevd preflight MODEL says what this device would not take"
        return EffectError("The NPU's compiler failed", got=got, allowed=allowed, where=str(model))
    allowed = "a run to its end; at 16-bit activations norm → Sigmoid → Mul can end it, as it can come out as noise"
    what = "The emulated run failed, after the compiler had written its binary"
    return EffectError(what, got=got, allowed=f"{allowed} (docs/device.md)", where=f"{compiled}, of {model}")


def _files(context: Path) -> list[Path]:
    """The context's graph and the binary that the provider writes beside it, under its name."""
    return [p for p in (context, *context.parent.glob(f"{context.stem}*.bin")) if p.is_file()]
