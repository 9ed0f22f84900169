"""What the NPU's compiler at hand makes of 16-bit SiLU after a norm, as torch writes it and as it ships: measured.

**Source** convolution → GroupNorm → SiLU → convolution, which every ResBlock begins with; random weights. **Keeps** the
report tells of this compiler, not of one that was once looked at, and torch's form, which does not ship, stops nothing
(``tests/device/test_htp.py``).
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mobilevd.device import calibrate, htp
from mobilevd.device.export import export
from mobilevd.device.fidelity import sqnr_db
from mobilevd.device.htp import NpuReport
from mobilevd.device.inputs import GraphSpec, InputSpec
from mobilevd.device.quantize import quantize
from mobilevd.device.quiet import quiet
from mobilevd.device.session import open_session
from mobilevd.device.targets import Target
from mobilevd.errors import EffectError

TORCHS, OURS = "norm → Sigmoid, Mul", "norm → h (1 + tanh h), h = x / 2: as it ships"
SPEC = GraphSpec(inputs=(InputSpec(name="x", shape=(2, 8, 8, 8)),), outputs=(InputSpec(name="y", shape=(2, 64, 8, 8)),))
OPSET = 18


class NormSiluConv(nn.Module):
    """What every ResBlock begins with."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second = nn.Conv2d(8, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
            self.norm, self.act = nn.GroupNorm(32, 64), nn.SiLU()
            nn.init.uniform_(self.norm.weight, 0.5, 1.5)
            nn.init.normal_(self.norm.bias, 0.0, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        """x N 8 H W → N 64 H W."""
        return self.second(self.act(self.norm(self.first(x))))


class Seen(NamedTuple):
    """dB to float of the quantized block on ONNX Runtime's CPU, and what the NPU made of it; if nothing, why."""

    cpu_db: float
    npu: NpuReport | None
    failed: str = ""

    @property
    def on_npu(self) -> str:
        """In words: dB to float, or how it ended."""
        return f"{self.npu.sqnr_db:.1f} dB to float" if self.npu else f"nothing ({self.failed})"


def measure(target: Target) -> dict[str, Seen]:
    """Both forms, on the emulator of ``target``. Errors: of the form that ships, as ``htp.check``."""
    with TemporaryDirectory(prefix="collapse-") as aside:
        return {form: _seen(Path(aside) / str(form == OURS), form == OURS, target) for form in (TORCHS, OURS)}


def rows(seen: dict[str, Seen]) -> list[dict[str, str | float]]:
    """For a card."""
    names = ("form", "ONNX Runtime's CPU, dB to float", "NPU, dB to float")
    values = ((form, round(one.cpu_db, 1), one.failed or round(one.npu.sqnr_db, 1)) for form, one in seen.items())
    return [dict(zip(names, row, strict=True)) for row in values]


def said(seen: dict[str, Seen]) -> str:
    """In a line, what this compiler makes of both forms."""
    text = "{}: {} on the NPU, {:.1f} dB to float on the CPU"
    return "; ".join(text.format(form, one.on_npu, one.cpu_db) for form, one in seen.items())


def graphs(folder: Path, rewritten: bool) -> tuple[Path, Path, list[dict]]:
    """The float graph and its W8A16 form, with SiLU in the form that ships or in torch's; inputs for both."""
    source, target = folder / "float.onnx", folder / "quantized.onnx"
    export(NormSiluConv(), SPEC, source, OPSET, rewrite_silu=rewritten)
    feeds = [SPEC.random(torch.Generator().manual_seed(seed)) for seed in range(3)]
    quantize(source, target, calibrate.ranges(source, feeds), "uint16")
    return source, target, feeds[:1]


def _seen(folder: Path, rewritten: bool, target: Target) -> Seen:
    with quiet(target.name):
        source, path, feeds = graphs(folder, rewritten)
        on_cpu = sqnr_db(*(open_session(p).run(None, feeds[0])[0] for p in (source, path)))
    try:
        return Seen(on_cpu, htp.check(source, path, target, folder / "context.onnx", feeds))
    except EffectError as error:
        if rewritten:
            raise
        return Seen(on_cpu, None, f"{error.what}: {error.got}")  # shown beside the form that ships, and not shipped
