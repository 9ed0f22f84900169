"""Static quantization of the float graph: int8 weights, 8- or 16-bit activations, in the form phones' NPUs take (QDQ).

**Source** ONNX Runtime's quantizer with its settings for Qualcomm's provider: symmetric weights, one scale per output
channel, of a MatMul's, too: its settings leave those one scale, but the NPU's compiler takes them (``test_htp.py``).
**Changes** QuantizeLinear/DequantizeLinear pairs around every operator. **Keeps** the opset; no weight stays in float
unnoticed (``tests/device/test_quantize.py``).
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

from mobilevd.device import rows
from mobilevd.device.calibrate import Ranges, for_quantizer
from mobilevd.device.session import data_file
from mobilevd.errors import EffectError

ACTIVATIONS = {"uint8": QuantType.QUInt8, "uint16": QuantType.QUInt16}
# What only the image token feeds has a few hundred values a clip, so that a new clip leaves the observed range and is
# clipped: 26.6 dB. Half as much again costs 16 bits nothing, 35.2 dB; 8 bits lose 2 dB by it (random 7 M network).
HEADROOM = {"uint8": 0.0, "uint16": 0.5}
WEIGHT_INPUTS = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (0, 1), "MatMul": (0, 1)}
PASSES_ON = ("Transpose", "Reshape", "Identity", "Cast", "Squeeze", "Unsqueeze", "Flatten")
QDQ = ("QuantizeLinear", "DequantizeLinear")
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Kind:
    """How many nodes of one operator type there are, and how many of them compute on dequantized values."""

    kind: str
    nodes: int
    quantized: int


def quantize(
    source: Path,
    target: Path,
    found: Ranges,
    activations: str,
    wide: Collection[str] = (),
    weights: Collection[str] = (),
) -> list[Kind]:
    """Write the quantized form of the float graph ``source`` to ``target``; nodes by operator type.

    Args:
        found: what ``calibrate.ranges`` saw on real inputs.
        activations: "uint8" or "uint16".
        wide: tensors that take 16 bits where the others take 8; what stands between is converted.
        weights: those of layers that take int16 instead of int8 where the activations have 16 bits.
    Errors: EffectError naming weights that the quantizer left in float.
    """
    wider = {name: [{"quant_type": ACTIVATIONS["uint16"]}] for name in wide}
    settings = get_qnn_qdq_config(
        source,
        calibration_data_reader=None,
        activation_type=ACTIVATIONS[activations],
        weight_type=QuantType.QInt8,
        per_channel=True,
        init_overrides=_weights(source, activations, wide, weights) | wider,
        add_qtype_converts=bool(wide),
    )
    if wide:  # 16 bits are Microsoft's operators before opset 21; beside other overrides the settings forget it
        settings.extra_options["UseQDQContribOps"] = True
    # quantize_static would first lift the graph to opset 21, in memory, which fails beyond 2 GB
    quantizer = QDQQuantizer(
        load_model_with_shape_infer(Path(source)),
        settings.per_channel,
        settings.reduce_range,
        settings.weight_type,
        settings.activation_type,
        for_quantizer(found, {name: HEADROOM["uint16" if name in wide else activations] for name in found}),
        [],
        [],
        settings.op_types_to_quantize,
        settings.extra_options,
    )
    quantizer.model = _Indexed(quantizer.model.model)
    with _without_warnings():
        quantizer.quantize_model()
    data_file(target).unlink(missing_ok=True)  # onnx would write behind what is there
    quantizer.model.save_model_to_file(str(target), settings.use_external_data_format)
    graph = onnx.load(target, load_external_data=False).graph
    check_weights(graph)
    return kinds(graph)


def check_weights(graph: onnx.GraphProto) -> None:
    """Errors: EffectError naming every Conv, Gemm or MatMul that reads a weight kept in float.

    A weight counts as kept in float when it, or what is quantized anew on every run, is a float constant.
    """
    made, stored = _producers(graph), _constants(graph)
    layers = [node for node in graph.node if node.op_type in WEIGHT_INPUTS]
    left = [
        node.name
        for node in layers
        if any(_stored_type(node.input[i], made, stored) in FLOATS for i in WEIGHT_INPUTS[node.op_type])
    ]
    if left:
        raise EffectError(
            "The quantizer left weights in float",
            got=f"{len(left)} of {len(layers)} layers: {', '.join(left[:8])}{' …' if len(left) > 8 else ''}",
            allowed="integer weights behind a DequantizeLinear",
            where="mobilevd/device/quantize.py",
        )


def kinds(graph: onnx.GraphProto) -> list[Kind]:
    """Operator types, the most frequent first."""
    made = _producers(graph)
    nodes = [node for node in graph.node if node.op_type not in QDQ]
    count = Counter(node.op_type for node in nodes)
    done = Counter(n.op_type for n in nodes if any(t in made and made[t].op_type == QDQ[1] for t in n.input))
    return [Kind(kind, number, done[kind]) for kind, number in count.most_common()]


class _Indexed(ONNXModel):
    """The runtime's own, which looks at every node for each tensor that it renames: here at those that read it.

    What is renamed are the float graph's own tensors, each before anything that the quantizer adds reads it.
    """

    def __init__(self, model: onnx.ModelProto):
        super().__init__(model)
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def replace_input_of_all_nodes(self, old_input_name: str, new_input_name: str) -> None:
        for node in self._readers.get(old_input_name, ()):
            self.replace_node_input(node, old_input_name, new_input_name)


def _weights(source: Path, activations: str, wide: Collection[str], weights: Collection[str]) -> dict[str, list[dict]]:
    """The types of weights that are not symmetric int8.

    Layer norms have one row: as activations are, per tensor; the NPU leaves symmetric int8 to the CPU.
    """
    graph = onnx.load(source, load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    norms = [n for n in graph.node if n.op_type == "LayerNormalization" and n.input[1] in stored]
    kinds = {node.input[1]: [{"quant_type": ACTIVATIONS[_bits(node, activations, wide)]}] for node in norms}
    for node, axis in rows.layers(graph):
        if node.input[1] in weights and _bits(node, activations, wide) == "uint16":
            kinds[node.input[1]] = [{"quant_type": QuantType.QInt16, "axis": axis}]
        elif node.op_type == "MatMul":
            kinds[node.input[1]] = [{"quant_type": QuantType.QInt8, "axis": axis}]
    return kinds


def _bits(node: onnx.NodeProto, activations: str, wide: Collection[str]) -> str:
    return "uint16" if node.output[0] in wide else activations


@contextmanager
def _without_warnings() -> Iterator[None]:
    """The quantizer warns at the root logger, once for every bias, that vectors have no second axis."""
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in graph.node for name in node.output}


def _constants(graph: onnx.GraphProto) -> dict[str, int]:
    """Name of a stored tensor → its ONNX type: initializers and Constant nodes."""
    constants = [node for node in graph.node if node.op_type == "Constant"]
    values = {node.output[0]: a.t.data_type for node in constants for a in node.attribute if a.name == "value"}
    return {tensor.name: tensor.data_type for tensor in graph.initializer} | values


def _stored_type(name: str, made: dict[str, onnx.NodeProto], stored: dict[str, int]) -> int | None:
    """The type of the constant that ``name`` comes from; None when it comes from an activation."""
    while name in made and made[name].op_type in (*PASSES_ON, *QDQ):
        name = made[name].input[0]
    return stored.get(name)
