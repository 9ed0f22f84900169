"""Attention along time as SVD writes it and as it ships: the NPU's compilation and noise, and the time on this CPU.

Usage: python benchmarks/time_attention.py FOLDER [--frames 7] [--heads 2] [--positions 64 128 256]. Random weights and
inputs. In W8A16 each size of each form is compiled for the Snapdragon 8 Gen 3 and run once on Qualcomm's emulator; in
float it is timed on ONNX Runtime's CPU. Printed as JSON.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from mobilevd.device import calibrate, htp
from mobilevd.device.export import export
from mobilevd.device.fidelity import sqnr_db
from mobilevd.device.inputs import GraphSpec, InputSpec
from mobilevd.device.profile import profile
from mobilevd.device.quantize import quantize
from mobilevd.device.session import open_session
from mobilevd.device.targets import HOST_CPU, SNAPDRAGON
from mobilevd.device.temporal_attention import TemporalAttention
from mobilevd.svd.unet import Attention

CHANNELS = 64  # of a head, as SVD has it
OPSET, RUNS = 20, 20


class EachPosition(nn.Module):
    """SVD's: positions are rows, and each has a product of small matrices of its own."""

    def __init__(self, attention: nn.Module):
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        """x F S C → F S C."""
        return self.attention(x.transpose(0, 1)).transpose(0, 1)


FORMS = {"a product at every position": EachPosition, "as it ships": TemporalAttention}


def main() -> None:
    """Print a row per size and form."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--frames", type=int, default=7)
    options.add_argument("--heads", type=int, default=2)
    options.add_argument("--positions", type=int, nargs="+", default=[64, 128, 256])
    options.add_argument("--form", nargs="+", choices=list(FORMS), default=list(FORMS))
    given = options.parse_args()
    for positions in given.positions:
        shape = (given.frames, positions, given.heads * CHANNELS)
        for form in given.form:
            place = given.folder / f"{'-'.join(map(str, shape))}-{list(FORMS).index(form)}"
            print(json.dumps({"form": form, "F S C": shape} | seen(form, shape, place)), flush=True)


def seen(form: str, shape: tuple[int, int, int], folder: Path) -> dict:
    """Seconds of the compiler, dB to float on this CPU and on the emulator, and milliseconds of float on this CPU."""
    torch.manual_seed(0)
    attention = Attention(query_dim=shape[2], heads=shape[2] // CHANNELS, dim_head=CHANNELS).requires_grad_(False)
    spec = GraphSpec(inputs=(InputSpec(name="x", shape=shape),), outputs=(InputSpec(name="y", shape=shape),))
    folder.mkdir(parents=True, exist_ok=True)
    source, target = folder / "float.onnx", folder / "w8a16.onnx"
    export(FORMS[form](attention).eval(), spec, source, OPSET)
    feeds = [spec.random(torch.Generator().manual_seed(0))]
    quantize(source, target, calibrate.ranges(source, feeds), "uint16")
    on_cpu = sqnr_db(*(open_session(path).run(None, feeds[0])[0] for path in (source, target)))
    report = htp.check(source, target, SNAPDRAGON, folder / "npu" / "context.onnx", feeds)
    figures = {"cpu_db": on_cpu, "npu_db": report.sqnr_db, "npu_to_cpu_db": report.sqnr_to_cpu_db}
    host = profile(source, feeds[0], HOST_CPU, warmup=1, repeats=RUNS)
    figures |= {"compile_s": report.compile_s, "context_mb": report.context_mb, "cpu_ms": host.figures["p50_ms"].value}
    return {name: round(value, 2) for name, value in figures.items()} | {"partitions": report.partitions}


if __name__ == "__main__":
    main()
