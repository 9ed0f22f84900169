"""The sections of a recipe that bring the trained network to the phone: its integers, and what it is timed on.

Keeps: two values that contradict each other are refused (``tests/test_settings.py``).
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mobilevd.section import Count, NotNegative, Positive, Section, Share

Effort = Literal["default", "long", "longest"]


class Quantize(Section):
    """Static QDQ quantization of the one-step network, calibrated on real latents.

    ``quantizer``: ONNX Runtime's, or Qualcomm's aimet-onnx, which may choose the weights' ``rounding`` by what comes
    out of each layer (AdaRound with ``iterations`` per layer, or scales by sequential MSE). Up to ``calibration_clips``
    are looked at, fewer once two in a row widen the activations' ranges by less than ``calibration_tolerance``.
    ``activations: mixed``: 8 bits, and 16 in as few blocks as bring the output ``budget_db`` above the noise.
    Beside 16-bit activations, the weights of a layer have 16 bits where 8 would hold one of its rows (output
    channels) at less than ``row_db``; 0: nowhere.
    """

    quantizer: Literal["onnxruntime", "aimet"] = "onnxruntime"
    weights: Literal["int8"] = "int8"
    row_db: float = 35.0
    activations: Literal["uint8", "uint16", "mixed"] = "uint16"
    budget_db: float | None = None
    rounding: Literal["nearest", "adaround", "seq_mse"] = "nearest"
    iterations: Count = 10_000
    calibration_clips: Count = 8
    calibration_tolerance: Share = 0.0
    opset: Annotated[int, Field(ge=18, le=20)] = 20
    min_sqnr_db: float = 15.0

    @model_validator(mode="after")
    def _rounding_is_aimets(self) -> "Quantize":
        if self.rounding != "nearest" and self.quantizer != "aimet":
            raise ValueError("rounding: adaround and seq_mse need quantizer: aimet")
        return self

    @model_validator(mode="after")
    def _mixed_has_a_budget(self) -> "Quantize":
        if (self.activations == "mixed") != (self.budget_db is not None):
            raise ValueError("activations: mixed and budget_db go together")
        if self.activations == "mixed" and self.quantizer != "onnxruntime":
            raise ValueError("activations: mixed needs quantizer: onnxruntime")
        return self


class Phone(Section):
    """How phones are measured, those of Qualcomm AI Hub and the one that is plugged in.

    ``runtime``: what the network is compiled to. ``quantize``: the graph quantized ``here`` is compiled, or the service
    quantizes the float one ``there``. ``provider``: what runs it on a phone at adb, its NPU (qnn) or its processor.
    ``timeout_minutes``: how long a job is waited for; a later run goes on with it.
    """

    runtime: Literal["qnn_context_binary", "qnn_dlc", "precompiled_qnn_onnx", "onnx"] = "qnn_context_binary"
    quantize: Literal["here", "there"] = "here"
    provider: Literal["qnn", "cpu"] = "qnn"
    timeout_minutes: Positive = 120.0


class Profile(Section):
    """On-device timing of the quantized network: one task per device.

    ``sustain_s``: how long it runs without a pause after the timed runs. ``base``: the finetuned base is timed beside
    it, on the host, in float. ``npu_effort``: how long the compiler for an emulated NPU looks for a faster graph.
    """

    devices: Annotated[tuple[str, ...], Field(min_length=1)] = ("host-cpu",)
    warmup: Annotated[int, Field(ge=0)] = 3
    repeats: Count = 20
    sustain_s: NotNegative = 0.0
    base: bool = False
    npu_effort: Effort = "default"
    phone: Phone = Phone()
