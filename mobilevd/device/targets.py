"""The devices a network can be checked or profiled on, as data: a name in the recipe becomes a target, or is refused.

**Keeps** a phone's name never gets a figure of this machine, nor the emulator's a latency
(``tests/device/test_targets.py``).
"""

from dataclasses import dataclass
from typing import Literal

from mobilevd.errors import MobileVDError

PHONE_PREFIX = "qai-hub:"
PLUGGED, PLUGGED_PREFIX = "adb", "adb:"
Kind = Literal["host", "emulator", "phone"]

# Source: ONNX Runtime's table of operators of its QNN provider, HTP backend; without Erf, which it lists, and which the
# compiler left to the CPU (docs/device.md)
# fmt: off
HTP_OPERATORS = frozenset({
    "Abs", "Add", "And", "ArgMax", "ArgMin", "AveragePool", "BatchNormalization", "Cast", "Ceil", "Clip",
    "Concat", "Conv", "ConvTranspose", "Cos", "DepthToSpace", "DequantizeLinear", "Div", "Elu", "Equal",
    "Exp", "Expand", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm",
    "GlobalAveragePool", "GlobalMaxPool", "Greater", "GreaterOrEqual", "GridSample", "HardSigmoid", "HardSwish",
    "Identity", "InstanceNormalization", "LRN", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log",
    "LogSoftmax", "LpNormalization", "MatMul", "Max", "MaxPool", "Min", "Mul", "Neg", "Not", "Or", "PRelu",
    "Pad", "Pow", "QuantizeLinear", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "Relu", "Reshape", "Resize", "Round", "ScatterND", "Sigmoid", "Sign", "Sin", "Slice",
    "Softmax", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Tile", "TopK", "Transpose",
    "Unsqueeze", "Upsample", "Where", "Xor",
})
HTP_TYPES = frozenset({
    "FLOAT", "FLOAT16", "INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32", "INT64", "BOOL",
})
# fmt: on


@dataclass(frozen=True)
class Limits:
    """What a device's runtime takes; None: anything. Sizes in bytes; ``norm_weights``: types of a layer norm's."""

    max_rank: int | None = None
    operators: frozenset[str] | None = None
    types: frozenset[str] | None = None
    tensor_bytes: int | None = None
    graph_bytes: int | None = None
    norm_weights: frozenset[str] | None = None


@dataclass(frozen=True)
class Target:
    """Where a graph runs: its name in recipes and figures, its class, what runs the graph, and what that takes.

    ``soc_model``, ``htp_arch``: Qualcomm's numbers of the chip and its NPU, for offline compilation.
    """

    name: str
    kind: Kind
    runtime: str
    limits: Limits = Limits()
    soc_model: int | None = None
    htp_arch: int | None = None


# Five axes are refused by HTP's elementwise operators, and a layer norm with signed weights by its own; 2 GB is what a
# protobuf file and an NPU's tensor address hold
NORM_WEIGHTS = frozenset({"UINT8", "UINT16", "FLOAT", "FLOAT16"})
HTP = Limits(4, HTP_OPERATORS, HTP_TYPES, tensor_bytes=2**31 - 1, graph_bytes=4 * 2**30, norm_weights=NORM_WEIGHTS)
HOST_CPU = Target("host-cpu", "host", "ONNX Runtime, CPU")
SNAPDRAGON = Target("snapdragon-8-gen-3", "emulator", "Qualcomm's HTP emulator, SM8650", HTP, soc_model=57, htp_arch=75)
PHONE, WIRED = "Qualcomm AI Hub", "ONNX Runtime on a phone that is plugged in"
PHONES_NEED = (
    "not measured: there is no token for Qualcomm AI Hub on this machine (docs/device.md), and a figure of the host or "
    "of an emulator does not stand in for a phone's"
)
WIRED_NEED = (
    "not measured: this machine has no adb, or $MOBILEVD_ANDROID_RUNNER names no runner for a phone (docs/device.md), "
    "and a figure of the host or of an emulator does not stand in for a phone's"
)
TARGETS = {target.name: target for target in (HOST_CPU, SNAPDRAGON)}


def find(name: str) -> Target:
    """The target called ``name``. Errors: MobileVDError with the names that are allowed."""
    if name in TARGETS:
        return TARGETS[name]
    if name.startswith(PHONE_PREFIX) and name.removeprefix(PHONE_PREFIX).strip():
        return Target(name, "phone", PHONE, HTP)
    if name == PLUGGED or (name.startswith(PLUGGED_PREFIX) and name.removeprefix(PLUGGED_PREFIX).strip()):
        return Target(name, "phone", WIRED, HTP)
    raise MobileVDError(
        "Unknown device",
        got=name,
        allowed=f"{', '.join(TARGETS)}, adb or adb:SERIAL (a phone that is plugged in), or a phone of Qualcomm AI Hub "
        "by its name there, like 'qai-hub:Samsung Galaxy S24' (where a phone cannot be reached it is recorded as not "
        "measured, and a gate that asks for it fails)",
        where="profile.devices in the recipe",
    )
