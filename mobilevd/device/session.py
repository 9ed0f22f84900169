"""Opening a graph in ONNX Runtime on this machine's CPU, the same way for parity, evaluation and timing.

**Keeps** the same bits for the same input, whatever the number of calls (``tests/device/test_runtime.py``). No torch
here: the process that is measured holds the runtime alone.
"""

import os
from pathlib import Path

import onnxruntime as ort

ERRORS_ONLY = 3
IN_FLOAT = ("session.qdq_matmulnbits_accuracy_level", "1")  # else int8 weights get 8-bit activations: −0.4 dB, slower


def data_file(path: Path) -> Path:
    """Where the weights of a graph beyond 2 GB lie."""
    return path.with_name(f"{path.name}.data")


def cpus() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_session(path: Path, threads: int | None = None, trace_to: Path | None = None) -> ort.InferenceSession:
    """A session on the CPU provider with all of the runtime's optimisations and deterministic kernels.

    Args:
        threads: cores one evaluation may use; all this process has when None.
        trace_to: prefix of the runtime's own per-operator trace; none is written when None.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or cpus()
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = ERRORS_ONLY
    options.add_session_config_entry(*IN_FLOAT)
    if trace_to is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(trace_to)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
