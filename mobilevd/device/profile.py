"""Time and memory of one graph on one target, in a process of its own, as a file with a schema.

**Keeps** the peak memory is the runtime's and not the caller's, and figures carry the target's own name only
(``tests/device/test_profile.py``).
"""

import json
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pydantic import BaseModel, ConfigDict

from mobilevd.artifacts import file_sha256, write_json
from mobilevd.device.session import cpus
from mobilevd.device.targets import Target
from mobilevd.errors import EffectError, MobileVDError

TRACED_RUNS = 3
KERNEL = "_kernel_time"


class Figure(BaseModel):
    """One measured value with its unit."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    value: float
    unit: str


class Operator(BaseModel):
    """Time of all operators of one type in one run, from the runtime's own trace."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    kind: str
    nodes: int
    ms: float
    share: float


class ProfileReport(BaseModel):
    """What was measured, how, on what and with which tools; ``off_npu``: layers that a phone ran elsewhere."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    target: str
    kind: str
    device: dict[str, str]
    protocol: dict[str, str]
    tools: dict[str, str]
    model_sha256: str
    figures: dict[str, Figure]
    operators: list[Operator]
    off_npu: list[str] = []

    def save(self, path: Path) -> None:
        """Write the report as JSON."""
        write_json(path, self.model_dump(mode="json"))


def profile(
    model: Path, feed: dict[str, np.ndarray], target: Target, warmup: int, repeats: int, threads: int | None = None
) -> ProfileReport:
    """Run ``model`` on ``feed`` in a fresh process of this machine: cold start, warm-up, ``repeats`` timed runs, trace.

    Errors: MobileVDError for a target that is not this machine, EffectError when the measured process fails.
    """
    if target.kind != "host":
        raise MobileVDError(
            "This machine cannot be profiled in another device's name", got=target.name, allowed="host-cpu"
        )
    threads = threads or cpus()
    with TemporaryDirectory(prefix="profile-") as aside:
        seen, operators = _measure(Path(model), feed, warmup, repeats, threads, Path(aside))
    return ProfileReport(
        target=target.name,
        kind=target.kind,
        device=_device(threads),
        protocol={
            "process": "its own, nothing loaded but numpy and the runtime",
            "runs": f"1 first, {warmup} warm-up, {repeats} timed one by one, batch 1",
            "memory": "high-water mark of the whole process after the timed runs, 10^6 bytes",
            "operators": f"mean of {TRACED_RUNS} traced runs in a second session",
        },
        tools={"onnxruntime": seen["onnxruntime"], "numpy": np.__version__, "python": platform.python_version()},
        model_sha256=file_sha256(model),
        figures=_figures(seen),
        operators=operators,
    )


def named(report: ProfileReport, target: Target, prefix: str = "") -> dict[str, float]:
    """Figures as ``profile.<device>.<prefix><name>``. Errors: EffectError when the report is another device's."""
    if (report.target, report.kind) != (target.name, target.kind):
        raise EffectError("A profile was offered in another device's name", got=report.target, allowed=target.name)
    return {f"profile.{target.name}.{prefix}{name}": figure.value for name, figure in report.figures.items()}


def _measure(
    model: Path, feed: dict[str, np.ndarray], warmup: int, repeats: int, threads: int, aside: Path
) -> tuple[dict, list[Operator]]:
    np.savez(aside / "feed.npz", **feed)
    job = {
        "model": str(model.resolve()),
        "feed": str(aside / "feed.npz"),
        "warmup": warmup,
        "repeats": repeats,
        "traced": TRACED_RUNS,
        "threads": threads,
        "answer": str(aside / "answer.json"),
    }
    write_json(aside / "job.json", job)
    command = [sys.executable, "-m", "mobilevd.device.bench", str(aside / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()[-3:]
        raise EffectError(
            "The profiled process failed", got=f"exit {done.returncode}: {' '.join(said)}", where=str(model)
        )
    seen = json.loads((aside / "answer.json").read_text(encoding="utf-8"))
    return seen, operators_of(json.loads(Path(seen["trace"]).read_text(encoding="utf-8")), TRACED_RUNS)


def operators_of(events: list[dict], runs: int) -> list[Operator]:
    """Roll a trace of ``runs`` runs up by operator type, the slowest first."""
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith(KERNEL)]
    ms: Counter[str] = Counter()
    nodes: dict[str, set[str]] = {}
    for event in kernels:
        kind = event["args"]["op_name"]
        ms[kind] += event["dur"] / 1e3 / runs
        nodes.setdefault(kind, set()).add(event["name"])
    whole = sum(ms.values())
    return [Operator(kind=k, nodes=len(nodes[k]), ms=t, share=t / whole) for k, t in ms.most_common()]


def _figures(seen: dict) -> dict[str, Figure]:
    runs = np.array(seen["runs_ms"])
    values = {f"p{q}_ms": float(np.percentile(runs, q)) for q in (50, 90, 99)}
    values |= {
        "min_ms": float(runs.min()),
        "cold_start_ms": seen["cold_start_ms"],
        "first_run_ms": seen["first_run_ms"],
    }
    values |= {"peak_memory_mb": seen["peak_memory_mb"], "memory_before_mb": seen["memory_before_mb"]}
    return {name: Figure(value=value, unit=name.rpartition("_")[2]) for name, value in values.items()}


def _device(threads: int) -> dict[str, str]:
    return {
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": str(threads),
        "cores": str(cpus()),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or "unknown"
    lines = info.read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
