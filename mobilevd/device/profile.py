"""Time and memory of one graph on one target, in a process of its own, as a file with a schema.

**Keeps** the peak memory is the runtime's and not the caller's, and figures carry the target's own name only
(``tests/device/test_profile.py``).
"""

import json
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from pydantic import BaseModel, ConfigDict

from mobilevd.artifacts import file_sha256, write_json
from mobilevd.device import rollup
from mobilevd.device.session import cpus
from mobilevd.device.targets import Target
from mobilevd.errors import EffectError, MobileVDError

TRACED_RUNS = 3
SUSTAINED_ENDS = 10  # of a sustained run, the first and the last tenth are compared
SUSTAINED_RUNS = 2 * SUSTAINED_ENDS  # with fewer, a tenth is one run or none
PERCENTILES = {50: 1, 90: 10, 99: 100}  # percent → from how many runs on it is one, and not the slowest run


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
    """What was measured, how, on what and with which tools.

    ``kinds``, ``blocks``: ms of one run by kind of layer and by block of the network. ``off_npu``: layers that a phone
    ran elsewhere.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    target: str
    kind: str
    device: dict[str, str]
    protocol: dict[str, str]
    tools: dict[str, str]
    model_sha256: str
    figures: dict[str, Figure]
    operators: list[Operator]
    kinds: dict[str, float] = {}
    blocks: dict[str, float] = {}
    off_npu: list[str] = []

    def save(self, path: Path) -> None:
        """Write the report as JSON."""
        write_json(path, self.model_dump(mode="json"))


def profile(
    model: Path,
    feed: dict[str, np.ndarray],
    target: Target,
    warmup: int,
    repeats: int,
    threads: int | None = None,
    sustain_s: float = 0.0,
) -> ProfileReport:
    """Run ``model`` on ``feed`` in a fresh process of this machine: cold start, warm-up, timed runs, trace.

    ``repeats``: how many are timed, at most for a minute.

    ``sustain_s``: afterwards it runs for so long without a pause; the last runs are then compared with the first.

    Errors: MobileVDError for a target that is not this machine, EffectError when the measured process fails.
    """
    if target.kind != "host":
        raise MobileVDError(
            "This machine cannot be profiled in another device's name", got=target.name, allowed="host-cpu"
        )
    threads = threads or cpus()
    with TemporaryDirectory(prefix="profile-") as aside:
        seen, events = _measure(Path(model), feed, warmup, repeats, threads, Path(aside), sustain_s)
    graph, times = onnx.load(model, load_external_data=False).graph, rollup.one_run(events, TRACED_RUNS)
    return ProfileReport(
        target=target.name,
        kind=target.kind,
        device=_device(threads),
        protocol={
            "process": "its own, nothing loaded but numpy and the runtime",
            "runs": f"1 first, {warmup} warm-up, {len(seen['runs_ms'])} timed one by one, batch 1",
            "memory": "high-water mark of the whole process after the timed runs, 10^6 bytes",
            "starts": "cold: the process's first session on the graph; warm: its second",
            "sustained": sustained(sustain_s, len(seen["sustained_ms"])),
            "operators": f"mean of {TRACED_RUNS} traced runs in another session",
        },
        tools={"onnxruntime": seen["onnxruntime"], "numpy": np.__version__, "python": platform.python_version()},
        model_sha256=file_sha256(model),
        figures=figures_of(seen),
        operators=operators_of(events, TRACED_RUNS),
        kinds=rollup.by_kind(times, graph),
        blocks=rollup.by_block(times, graph),
    )


def named(report: ProfileReport, target: Target, prefix: str = "") -> dict[str, float]:
    """Figures as ``profile.<device>.<prefix><name>``. Errors: EffectError when the report is another device's."""
    if (report.target, report.kind) != (target.name, target.kind):
        raise EffectError("A profile was offered in another device's name", got=report.target, allowed=target.name)
    return {f"profile.{target.name}.{prefix}{name}": figure.value for name, figure in report.figures.items()}


def _measure(
    model: Path,
    feed: dict[str, np.ndarray],
    warmup: int,
    repeats: int,
    threads: int,
    aside: Path,
    sustain_s: float = 0.0,
) -> tuple[dict, list[dict]]:
    """What the measured process saw, and the events of the runtime's trace."""
    np.savez(aside / "feed.npz", **feed)
    job = {
        "model": str(model.resolve()),
        "feed": str(aside / "feed.npz"),
        "warmup": warmup,
        "repeats": repeats,
        "sustain_s": sustain_s,
        "traced": TRACED_RUNS,
        "threads": threads,
        "answer": str(aside / "answer.json"),
        "parent": os.getpid(),
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
    return seen, json.loads(Path(seen["trace"]).read_text(encoding="utf-8"))


def operators_of(events: list[dict], runs: int) -> list[Operator]:
    """Roll a trace of ``runs`` runs up by operator type, the slowest first."""
    ms: Counter[str] = Counter()
    nodes: dict[str, set[str]] = {}
    for name, kind, time in rollup.kernels(events):
        ms[kind] += time / runs
        nodes.setdefault(kind, set()).add(name)
    whole = sum(ms.values())
    return [Operator(kind=k, nodes=len(nodes[k]), ms=t, share=t / whole) for k, t in ms.most_common()]


def figures_of(seen: dict) -> dict[str, Figure]:
    """What a measured process saw (``device/bench.py``; on a phone less) as figures with units."""
    runs = np.array(seen["runs_ms"])
    values = percentiles(runs)
    values |= {
        "min_ms": float(runs.min()),
        "cold_start_ms": seen["cold_start_ms"],
        "warm_start_ms": seen["warm_start_ms"],
        "first_run_ms": seen["first_run_ms"],
    }
    values |= _sustained(np.array(seen["sustained_ms"]))
    values |= {name: seen[name] for name in ("peak_memory_mb", "memory_before_mb") if name in seen}
    return {name: Figure(value=value, unit=name.rpartition("_")[2]) for name, value in values.items()}


def percentiles(runs: Sequence[float] | np.ndarray) -> dict[str, float]:
    """``p50_ms``, ``p90_ms`` and ``p99_ms`` of the runs' ms, as far as there are runs enough."""
    return {f"p{q}_ms": float(np.percentile(runs, q)) for q, least in PERCENTILES.items() if len(runs) >= least}


def sustained(seconds: float, runs: int) -> str:
    """What the ratio of a run without a pause is, for a report's protocol."""
    if not seconds:
        return "not asked for (profile.sustain_s)"
    told = f"{seconds:g} s without a pause: median of the last tenth of {runs} runs over that of the first"
    return told if runs >= SUSTAINED_RUNS else f"{told}, which needs {SUSTAINED_RUNS} or more"


def _sustained(runs: np.ndarray) -> dict[str, float]:
    """How much slower the last tenth of a long run is than its first: what heat does. Nothing when there was none.

    No ratio of fewer runs than SUSTAINED_RUNS.
    """
    if not len(runs):
        return {}
    if len(runs) < SUSTAINED_RUNS:
        return {"sustained_p50_ms": float(np.median(runs))}
    tenth = max(1, len(runs) // SUSTAINED_ENDS)
    first, last = np.median(runs[:tenth]), np.median(runs[-tenth:])
    return {"sustained_p50_ms": float(np.median(runs)), "sustained_ratio": float(last / first)}


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
