"""The process in which Qualcomm's compiler and HTP emulator run: it may end in an abort, and then nothing else does.

Run as ``python -m mobilevd.device.emulator JOB.json``; ``mobilevd.device.htp`` writes the job and reads the answer.
**Keeps** it ends with the process that asked (``tests/device/test_htp.py``).
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import onnxruntime_qnn

from mobilevd.device.parent import end_with
from mobilevd.device.session import ERRORS_ONLY

PROVIDER, CONTEXT = "QNNExecutionProvider", "EPContext"


def main(job_file: Path) -> None:
    """Compile ``model`` for soc_model and htp_arch into ``context``; run the feeds, when there are any, on the NPU."""
    job = json.loads(job_file.read_text(encoding="utf-8"))
    end_with(job["parent"])
    ort.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    began = time.perf_counter()
    session = _open(job)
    compiled = time.perf_counter()
    Path(job["compiled"]).touch()  # so that whoever finds this process dead knows in which step
    outputs = {}
    for index, path in enumerate(job["feeds"]):
        with np.load(path, allow_pickle=False) as feed:
            given = {name: feed[name] for name in feed.files}
        outputs |= {f"{index}": session.run(job["outputs"], given)[0]}
    ended = time.perf_counter()
    np.savez(job["answer"] + ".npz", **outputs)
    graph = onnx.load(job["context"], load_external_data=False).graph
    answer = {
        "compile_s": compiled - began,
        "run_s": (ended - compiled) / max(1, len(job["feeds"])),
        "partitions": sum(node.op_type == CONTEXT for node in graph.node),
        "on_cpu": [f"{node.op_type} {node.name}" for node in graph.node if node.op_type != CONTEXT],
        "tools": {"onnxruntime": ort.__version__, "onnxruntime-qnn": onnxruntime_qnn.__version__},
    }
    Path(job["answer"]).write_text(json.dumps(answer), encoding="utf-8")


def _open(job: dict) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.add_session_config_entry("ep.context_enable", "1")
    options.add_session_config_entry("ep.context_file_path", job["context"])
    [device] = [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER][:1]
    settings = {
        "backend_path": str(Path(onnxruntime_qnn.get_library_path()).with_name("libQnnHtp.so")),
        "soc_model": str(job["soc_model"]),
        "htp_arch": str(job["htp_arch"]),
        "enable_htp_fp16_precision": "1",
        "htp_graph_finalization_optimization_mode": str(job["effort"]),
    }
    options.add_provider_for_devices([device], settings)
    return ort.InferenceSession(job["model"], options)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
