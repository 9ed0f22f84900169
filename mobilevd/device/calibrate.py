"""What values every tensor of a graph takes on real inputs: the smallest and the largest.

**Source** min-max calibration; ONNX Runtime's own calibrator keeps every tensor of a clip in memory (3.3 GB for a 10 M
network, 1.0 GB here) and is quadratic in the number of nodes. **Keeps** the ranges that numpy finds on the same
tensors (``tests/device/test_calibrate.py``).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData

from mobilevd.device.session import ERRORS_ONLY, cpus
from mobilevd.errors import EffectError

REDUCTIONS = ("ReduceMin", "ReduceMax")
STEADY = 2  # ours: one clip may be like another by chance
TINY = 1e-30  # the width of a tensor that is constant

Ranges = dict[str, tuple[float, float]]


class Seen(NamedTuple):
    """The ranges over the clips looked at, and by what share (mean over tensors) each after the first widened them."""

    ranges: Ranges
    widened: tuple[float, ...]

    @property
    def clips(self) -> int:
        """How many clips were looked at."""
        return 1 + len(self.widened)


def ranges(path: Path, feeds: Iterable[dict[str, np.ndarray]]) -> Ranges:
    """The ranges over all feeds. Errors: as ``observe``."""
    return observe(path, feeds).ranges


def observe(path: Path, feeds: Iterable[dict[str, np.ndarray]], tolerance: float = 0.0) -> Seen:
    """Run the float graph on feed after feed; tensor name → (smallest, largest), with one clip in memory at a time.

    ``tolerance``: no more feeds are looked at once STEADY in a row widened the ranges by less than this share; 0: all.
    Errors: EffectError without feeds, or naming a tensor that takes values which are not finite.
    """
    aside = Path(path).with_suffix(".observed.onnx")
    names = _write_observed(Path(path), aside)
    try:
        low, high, widened = _until_steady(_open(aside), feeds, tolerance)
    finally:
        aside.unlink()
    found = {name: _checked(name, float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}
    return Seen(found, tuple(widened))


def for_quantizer(found: Ranges, headroom: Mapping[str, float]) -> TensorsData:
    """The ranges, each wider by its share of ``headroom``, in the form that ONNX Runtime's quantizer takes."""
    more = {name: 1 + headroom[name] for name in found}
    wider = {name: (np.float32(a * more[name]), np.float32(b * more[name])) for name, (a, b) in found.items()}
    tensors = {name: TensorData(lowest=low, highest=high) for name, (low, high) in wider.items()}
    return TensorsData(CalibrationMethod.MinMax, tensors)


def _until_steady(session: ort.InferenceSession, feeds: Iterable[dict], tolerance: float) -> tuple:
    """Smallest and largest value of every tensor, and what each clip after the first added to the ranges' width."""
    low, high, widened = None, None, []
    for feed in feeds:
        least, most = np.array(session.run(None, feed), dtype=np.float64).reshape(-1, len(REDUCTIONS)).T
        if low is None:
            low, high = least, most
            continue
        before, low, high = high - low, np.minimum(low, least), np.maximum(high, most)
        widened.append(float(np.mean((high - low - before) / np.maximum(high - low, TINY))))
        if max(widened[-STEADY:]) < tolerance and len(widened) >= STEADY:
            break
    if low is None:
        raise EffectError("Calibration got no clips", got=0, allowed="one or more", where="quantize.calibration_clips")
    return low, high, widened


def _write_observed(path: Path, aside: Path) -> list[str]:
    """Beside ``path``, the same graph whose outputs are the reductions of every float tensor; their names, in order."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False))
    graph, floats = model.graph, _floats(model.graph)
    nodes = list(graph.node)
    del graph.node[:], graph.output[:]
    for name in (i.name for i in graph.input if i.name in floats):
        _observe(graph, name)
    for node in nodes:
        graph.node.append(node)
        for name in (n for n in node.output if n in floats):
            _observe(graph, name)
    onnx.save(model, aside)
    return [output.name.rpartition("::")[0] for output in graph.output[:: len(REDUCTIONS)]]


def _observe(graph: onnx.GraphProto, name: str) -> None:
    for kind in REDUCTIONS:
        graph.node.append(helper.make_node(kind, [name], [f"{name}::{kind}"], keepdims=0))
        graph.output.append(helper.make_tensor_value_info(f"{name}::{kind}", TensorProto.FLOAT, []))


def _floats(graph: onnx.GraphProto) -> set[str]:
    known = [info for infos in (graph.input, graph.value_info, graph.output) for info in infos]
    return {info.name for info in known if info.type.tensor_type.elem_type == TensorProto.FLOAT}


def _open(path: Path) -> ort.InferenceSession:
    """Nodes run in the order written, so that a tensor is reduced, and let go, as soon as it exists."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.intra_op_num_threads = cpus()
    options.log_severity_level = ERRORS_ONLY
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _checked(name: str, low: float, high: float) -> tuple[float, float]:
    if not np.isfinite([low, high]).all():
        raise EffectError("A tensor of the float network is not finite on real inputs", got=f"{name}: {low} to {high}")
    return low, high
