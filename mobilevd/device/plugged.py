"""A network on a phone that is plugged in: pushed with ONNX Runtime's own ``onnxruntime_perf_test``, timed, pulled.

**Source** that tool's file of runs (name, seconds, peak bytes, processor, number) and the runtime's trace. **Keeps**
figures are the phone's, in the schema of every other; one measurement at a time is there, and nothing stays
(``tests/device/test_plugged.py``).
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

from mobilevd.artifacts import file_sha256
from mobilevd.device import profile, rollup
from mobilevd.device.adb import Phone
from mobilevd.device.htp import BORDER
from mobilevd.device.profile import TRACED_RUNS, ProfileReport
from mobilevd.device.quiet import quiet
from mobilevd.device.targets import Target
from mobilevd.errors import EffectError, MobileVDError

RUNNER, TOOL = "MOBILEVD_ANDROID_RUNNER", "onnxruntime_perf_test"
THERE = "/data/local/tmp/mobilevd"
NPU = "QNNExecutionProvider"
PROVIDERS = {
    "cpu": ("-e", "cpu"),
    "qnn": ("-e", "qnn", "-i", "backend_path|libQnnHtp.so htp_performance_mode|burst enable_htp_fp16_precision|1"),
}
SHOWN = 20


class Task(NamedTuple):
    """What is to be measured, and how: ``provider`` "cpu" or "qnn" (the NPU), timed runs, seconds without a pause."""

    model: Path
    feed: dict[str, np.ndarray]
    provider: str
    runs: int
    sustain_s: float = 0.0


def runner() -> Path | None:
    """The folder with the tool and its libraries for Android; None where $MOBILEVD_ANDROID_RUNNER names none.

    Errors: MobileVDError for a folder without the tool.
    """
    named = os.environ.get(RUNNER)
    if named and not (Path(named) / TOOL).is_file():
        allowed = f"a folder with {TOOL}, libonnxruntime.so and, for the NPU, Qualcomm's libraries"
        raise MobileVDError("The runner for Android is not there", got=named, allowed=allowed, where=RUNNER)
    return Path(named) if named else None


def measure(phone: Phone, target: Target, task: Task, tools: Path) -> ProfileReport:
    """Push ``task`` and ``tools``, run, pull, and leave nothing there; waits for other measurements on that phone.

    Errors: EffectError when the phone fails.
    """
    with quiet(target.name, phone.serial), TemporaryDirectory(prefix="plugged-") as aside, _folder(phone):
        _push(phone, task, tools, Path(aside))
        first, runs = _run(phone, task, Path(aside), "-m", "times", "-r", str(task.runs))
        again, traced = _run(phone, task, Path(aside), "-m", "times", "-r", str(TRACED_RUNS), "-p", f"{THERE}/trace")
        events = json.loads(phone.pull(_trace(phone), Path(aside) / "trace.json").read_text(encoding="utf-8"))
        long = ("-m", "duration", "-t", f"{task.sustain_s:.0f}")
        sustained = _run(phone, task, Path(aside), *long)[1][:, 0] if task.sustain_s else np.empty(0)
    graph = onnx.load(task.model, load_external_data=False).graph
    seen = {
        "runs_ms": runs[:, 0],
        "sustained_ms": sustained,
        "cold_start_ms": _said(first, r"Session creation time cost: *([\d.eE+-]+) s", 1e3),
        "warm_start_ms": _said(again, r"Session creation time cost: *([\d.eE+-]+) s", 1e3),
        "first_run_ms": _said(first, r"First inference time cost: *([\d.eE+-]+) ms", 1.0),
        "peak_memory_mb": float(runs[:, 1].max()),
    }
    traced_runs = len(traced) + 1  # and the tool's first run, which it does not count
    return ProfileReport(
        target=target.name,
        kind=target.kind,
        device=phone.device,
        protocol=_protocol(task, len(sustained)),
        tools={TOOL: file_sha256(tools / TOOL)[:12], "adb": phone.serial},
        model_sha256=file_sha256(task.model),
        figures=profile.figures_of(seen),
        operators=profile.operators_of(events, traced_runs),
        off_npu=_off_npu(events) if task.provider == "qnn" else ["everything: the processor was asked for"],
        **rollup.told(rollup.one_run(events, traced_runs), graph),
    )


@contextmanager
def _folder(phone: Phone) -> Iterator[None]:
    """An empty folder there, gone afterwards whatever happens; a phone that was lost keeps it until the next time."""
    phone.shell("rm", "-rf", THERE)
    phone.shell("mkdir", "-p", f"{THERE}/test_data_set_0")
    try:
        yield
    except BaseException:
        with suppress(EffectError):  # what went wrong is told, not that the phone is gone
            phone.shell("rm", "-rf", THERE)
        raise
    phone.shell("rm", "-rf", THERE)


def _push(phone: Phone, task: Task, tools: Path, aside: Path) -> None:
    for file in (path for path in sorted(tools.iterdir()) if path.is_file()):
        phone.push(file, f"{THERE}/{file.name}")
    phone.shell("chmod", "+x", f"{THERE}/{TOOL}")
    phone.push(task.model, f"{THERE}/{task.model.name}")
    weights = task.model.with_name(task.model.name + ".data")
    if weights.is_file():
        phone.push(weights, f"{THERE}/{weights.name}")
    for index, (name, value) in enumerate(task.feed.items()):
        file = aside / f"input_{index}.pb"
        file.write_bytes(numpy_helper.from_array(value, name).SerializeToString())
        phone.push(file, f"{THERE}/test_data_set_0/{file.name}")


def _run(phone: Phone, task: Task, aside: Path, *how: str) -> tuple[str, np.ndarray]:
    """What the tool said, and one row of ms and peak MB for every run that it counted."""
    libraries = (f"LD_LIBRARY_PATH={THERE}", f"ADSP_LIBRARY_PATH={THERE}")
    model, result = f"{THERE}/{task.model.name}", f"{THERE}/runs.csv"
    phone.shell("rm", "-f", result)  # the tool appends
    said = phone.shell("env", *libraries, f"{THERE}/{TOOL}", *PROVIDERS[task.provider], *how, model, result)
    lines = phone.pull(result, aside / "runs.csv").read_text(encoding="utf-8").splitlines()
    rows = [line.rsplit(",", 4)[1:3] for line in lines if line.count(",") >= 4]
    if not rows:
        raise EffectError("The phone's file of runs holds none", got=" ".join(lines[:3]) or "nothing", where=result)
    return said, np.array(rows, dtype=np.float64) * (1e3, 1e-6)


def _trace(phone: Phone) -> str:
    """The runtime adds the time of day to the trace's name."""
    found = phone.shell("find", THERE, "-name", "trace*").split()
    if len(found) != 1:
        raise EffectError("The runtime left no trace on the phone", got=", ".join(found) or "nothing", where=THERE)
    return found[0]


def _said(text: str, pattern: str, scale: float) -> float:
    found = re.search(pattern, text)
    if found is None:
        raise EffectError(f"{TOOL} said something else than expected", got=text.strip()[-200:], allowed=pattern)
    return float(found[1]) * scale


def _off_npu(events: list[dict]) -> list[str]:
    """Nodes that another provider ran, besides the quantization of the graph's own inputs and outputs."""
    nodes = [e["args"] | {"name": e["name"].removesuffix(rollup.KERNEL)} for e in rollup.kernel_events(events)]
    off = {
        f"{n['provider']}: {n['name']} ({n['op_name']})"
        for n in nodes
        if n.get("provider") != NPU and n["op_name"] not in BORDER
    }
    shown = sorted(off)[:SHOWN]
    return shown + ([f"and {len(off) - SHOWN} more"] if len(off) > SHOWN else [])


def _protocol(task: Task, sustained: int) -> dict[str, str]:
    return {
        "process": f"{TOOL} for Android, in a shell of adb",
        "runs": f"1 first, {task.runs} timed one by one on one real input, batch 1",
        "provider": task.provider,
        "memory": "largest working set of the process, 10^6 bytes",
        "starts": "cold: the first session on the pushed graph, warm: the second; with the NPU's compilation",
        "sustained": profile.sustained(task.sustain_s, sustained),
        "operators": f"mean of {TRACED_RUNS + 1} traced runs in another session",
        "blocks": "of the same trace; none where the NPU's partition is one kernel there",
        "outputs": "not compared: the tool does not hand them over",
    }
