"""One export, calibration and quantization of the tiny network, shared by every test of the folder."""

from typing import NamedTuple

import one_step
import pytest

from mobilevd.device import calibrate
from mobilevd.device.export import export
from mobilevd.device.one_clip import OneClip
from mobilevd.device.quantize import quantize


class Graphs(NamedTuple):
    """The float graph, its W8A16 form, what calibration saw, and the network itself."""

    float_path: object
    quantized_path: object
    ranges: dict
    kinds: list
    network: object


@pytest.fixture(scope="session")
def graphs(tmp_path_factory):
    folder, network = tmp_path_factory.mktemp("onnx"), one_step.step()
    float_path, quantized_path = folder / "float.onnx", folder / "quantized.onnx"
    export(OneClip(network.unet), one_step.SPEC, float_path, opset=20)
    one_step.SPEC.save(folder)
    ranges = calibrate.ranges(float_path, one_step.feeds(2))
    kinds = quantize(float_path, quantized_path, ranges, "uint16")
    return Graphs(float_path, quantized_path, ranges, kinds, network)
