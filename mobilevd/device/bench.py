"""The process that is measured: it opens a graph, runs it, and says times and memory; nothing else is loaded in it.

Run as ``python -m mobilevd.device.bench JOB.json``; ``mobilevd.device.profile`` writes the job and reads the answer.
**Keeps** no torch in this process (``tests/device/test_profile.py``).
"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from mobilevd.device.parent import end_with
from mobilevd.device.session import open_session

STATUS = Path("/proc/self/status")
LONGEST_S, LEAST = 60.0, 5  # of the timed runs: a minute of them is enough, but one is not


def main(job_file: Path) -> None:
    """Time ``job`` (model, feed, warmup, repeats, sustain_s, traced, threads, answer) and write what was seen."""
    job = json.loads(job_file.read_text(encoding="utf-8"))
    end_with(job["parent"])
    with np.load(job["feed"], allow_pickle=False) as stored:
        feed = {name: stored[name] for name in stored.files}
    before_mb = peak_memory_mb()
    cold_start_ms, session = _timed(lambda: open_session(job["model"], job["threads"]))
    first_ms, _ = _timed(lambda: session.run(None, feed))
    for _ in range(job["warmup"]):
        session.run(None, feed)
    runs_ms = _repeated(session, feed, job["repeats"])
    peak_mb = peak_memory_mb()  # before the trace below, which needs memory of its own
    sustained_ms = _sustained(session, feed, job["sustain_s"])
    del session
    warm_start_ms, session = _timed(lambda: open_session(job["model"], job["threads"]))
    del session
    answer = {
        "cold_start_ms": cold_start_ms,
        "first_run_ms": first_ms,
        "runs_ms": runs_ms,
        "warm_start_ms": warm_start_ms,
        "sustained_ms": sustained_ms,
        "peak_memory_mb": peak_mb,
        "memory_before_mb": before_mb,
        "trace": _traced(job, feed) if job["traced"] else None,
        "torch_loaded": "torch" in sys.modules,
        "onnxruntime": ort.__version__,
    }
    Path(job["answer"]).write_text(json.dumps(answer), encoding="utf-8")


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB (10⁶ bytes).

    Linux counts in ``ru_maxrss`` what the parent held when it forked, so the program's own high-water mark is read.
    """
    if STATUS.is_file():
        line = next(x for x in STATUS.read_text(encoding="ascii").splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _timed(call):
    began = time.perf_counter()
    result = call()
    return (time.perf_counter() - began) * 1e3, result


def _repeated(session, feed: dict[str, np.ndarray], repeats: int) -> list[float]:
    """The ms of ``repeats`` runs, or of a minute of them."""
    until, runs_ms = time.perf_counter() + LONGEST_S, []
    while len(runs_ms) < repeats and (len(runs_ms) < LEAST or time.perf_counter() < until):
        runs_ms.append(_timed(lambda: session.run(None, feed))[0])
    return runs_ms


def _sustained(session, feed: dict[str, np.ndarray], seconds: float) -> list[float]:
    """Run without a pause for so long; the ms of every run."""
    until, runs_ms = time.perf_counter() + seconds, []
    while time.perf_counter() < until:
        runs_ms.append(_timed(lambda: session.run(None, feed))[0])
    return runs_ms


def _traced(job: dict, feed: dict[str, np.ndarray]) -> str:
    session = open_session(job["model"], job["threads"], trace_to=Path(job["answer"]).with_suffix(""))
    for _ in range(job["traced"]):
        session.run(None, feed)
    return session.end_profiling()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
