"""The tiny one-step network's graphs, float and W8A16, with what calibration saw: made once per run of tests.

Each worker gets a copy of its own, for what is observed is written beside a graph.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import once
import one_step
import pytest

from mobilevd.device import calibrate
from mobilevd.device.export import export
from mobilevd.device.one_clip import OneClip
from mobilevd.device.quantize import Kind, quantize


class Graphs(NamedTuple):
    """The float graph, its W8A16 form, what calibration saw, its nodes by operator type, and the network itself."""

    float_path: Path
    quantized_path: Path
    ranges: dict
    kinds: list
    network: object


def copy(factory: pytest.TempPathFactory) -> Graphs:
    """The graphs, in a folder of this worker."""
    folder = factory.mktemp("onnx")
    shutil.copytree(once.made(factory, "one_step_graphs", _write), folder, dirs_exist_ok=True)
    seen = folder / "seen.json"
    told = json.loads(seen.read_text())
    seen.unlink()
    ranges = {name: tuple(both) for name, both in told["ranges"].items()}
    kinds = [Kind(**kind) for kind in told["kinds"]]
    return Graphs(folder / "float.onnx", folder / "quantized.onnx", ranges, kinds, one_step.step())


def _write(folder: Path) -> None:
    """Export, calibrate, quantize."""
    float_path = folder / "float.onnx"
    export(OneClip(one_step.step().unet), one_step.SPEC, float_path, opset=20)
    one_step.SPEC.save(folder)
    ranges = calibrate.ranges(float_path, one_step.feeds(2))
    kinds = quantize(float_path, folder / "quantized.onnx", ranges, "uint16")
    (folder / "seen.json").write_text(json.dumps({"ranges": ranges, "kinds": [asdict(kind) for kind in kinds]}))
