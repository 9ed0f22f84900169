"""Static quantization by Qualcomm's own toolkit, with its rules for the Snapdragon 8 Gen 3's NPU.

**Source** aimet-onnx: min-max calibration, AdaRound (arXiv 2004.10568) or sequential MSE for the weights. **Changes**
the float graph into QDQ form. **Keeps** integer weights, held to the same check as ONNX Runtime's quantizer
(``tests/device/test_aimet.py``).
"""

import importlib.util
import logging
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from mobilevd.device.quantize import HEADROOM, Kind, check_weights, kinds
from mobilevd.device.session import cpus, data_file
from mobilevd.errors import MobileVDError

ACTIVATIONS = {"uint8": "int8", "uint16": "int16"}  # widths; the graph's activations are unsigned
RULES = "htp_v75"  # of the Snapdragon 8 Gen 3
CANDIDATES = 20  # scales that sequential MSE tries for each weight
EXTERNAL_ABOVE = 1_500_000_000  # bytes; a protobuf file ends at 2 GB

Feed = dict[str, np.ndarray]


def quantize(
    source: Path,
    target: Path,
    feeds: Sequence[Feed],
    activations: str,
    rounding: str = "nearest",
    iterations: int = 10_000,
    weights: Collection[str] = (),
) -> list[Kind]:
    """Write the quantized form of the float graph ``source`` to ``target``; nodes by operator type.

    Args:
        feeds: real inputs, for ranges and rounding.
        activations: "uint8" or "uint16".
        rounding: of the weights: "nearest", "adaround" with ``iterations`` per layer, or "seq_mse".
        weights: those of layers that take int16 instead of int8 at 16-bit activations.
    Errors: MobileVDError where the toolkit is not installed; EffectError naming weights that were left in float.
    """
    require_installed()
    import aimet_onnx
    from aimet_onnx.common.utils import AimetLogger

    AimetLogger.set_level_for_all_areas(logging.WARNING)
    sim = aimet_onnx.QuantizationSimModel(
        onnx.load(source),
        param_type="int8",
        activation_type=ACTIVATIONS[activations],
        config_file=RULES,
        session_options_kwargs={"intra_op_num_threads": cpus()},
    )
    for name in _norm_weights(sim.model.model.graph) & sim.qc_quantize_op_dict.keys():
        sim.qc_quantize_op_dict[name].set_precision(ACTIVATIONS[activations])
        sim.qc_quantize_op_dict[name].use_symmetric_encodings = True
    for name in weights if activations == "uint16" else ():
        sim.qc_quantize_op_dict[name].set_precision("int16")
    if rounding == "adaround":
        aimet_onnx.apply_adaround(sim, list(feeds), iterations)
    elif rounding == "seq_mse":
        aimet_onnx.apply_seq_mse(sim, list(feeds), CANDIDATES)
    sim.compute_encodings(feeds)
    _widen(sim, HEADROOM[activations])
    model = sim.to_onnx_qdq(export_int32_bias=True, prequantize_constants=True)
    _make_norms_unsigned(model.graph)
    _save(model, Path(target))
    graph = onnx.load(target, load_external_data=False).graph
    check_weights(graph)
    return kinds(graph)


def require_installed() -> None:
    """Errors: MobileVDError where the toolkit is not installed."""
    if importlib.util.find_spec("aimet_onnx") is None:
        allowed = "quantizer: onnxruntime, or pip install 'mobilevd[device]' on Linux x86-64"
        raise MobileVDError(
            "Qualcomm's quantizer is not installed", got="no aimet_onnx", allowed=allowed, where="quantize.quantizer"
        )


def _norm_weights(graph: onnx.GraphProto) -> set[str]:
    """Layer norms' weights, whatever stands between them and their norm."""
    made = {output: node for node in graph.node for output in node.output}
    norms = [node for node in graph.node if node.op_type == "LayerNormalization"]
    return {made[n.input[1]].input[0] if n.input[1] in made else n.input[1] for n in norms}


def _make_norms_unsigned(graph: onnx.GraphProto) -> None:
    """Layer norms' weights as unsigned numbers around the middle, exactly: the NPU leaves signed ones to the CPU."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    weights = _norm_weights(graph)
    readers = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in weights]
    for name in {name for node in readers for name in (node.input[0], node.input[2])}:
        values = numpy_helper.to_array(stored[name])
        middle = 1 << (8 * values.dtype.itemsize - 1)
        moved = (values.astype(np.int64) + middle).astype(f"u{values.dtype.name}")
        stored[name].CopyFrom(numpy_helper.from_array(moved, name))


def _widen(sim, headroom: float) -> None:
    """Ranges of activations wider by a share: what a new clip brings must not be cut off (``quantize.HEADROOM``)."""
    for name in sim.activation_names:
        quantizer = sim.qc_quantize_op_dict[name]
        found = quantizer.get_encodings() if headroom and quantizer.enabled else None
        for encoding in found or ():
            encoding.min, encoding.max = encoding.min * (1 + headroom), encoding.max * (1 + headroom)
            encoding.delta *= 1 + headroom
        if found:
            quantizer.load_encodings(found)


def _save(model: onnx.ModelProto, target: Path) -> None:
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    aside = {"save_as_external_data": True, "location": data_file(target).name} if size > EXTERNAL_ABOVE else {}
    data_file(target).unlink(missing_ok=True)  # onnx would write behind what is there
    onnx.save(model, target, **aside)
