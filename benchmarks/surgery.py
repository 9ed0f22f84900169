"""What the surgery costs on SVD's own 1.52 B network: seconds and memory by step. ``python benchmarks/surgery.py``

Random half-precision weights → cross-attention → multiscaling → 11 temporal blocks → CSI funnels → merge → save → load.
"""

import argparse
import json
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mobilevd.evaluation.cost import Cost, count, paper_keep
from mobilevd.method import channel_funnel, cross_attention, surgery, temporal_multiscale, temporal_pruning
from mobilevd.svd import reference
from mobilevd.svd.sampler import OneStep
from mobilevd.svd.unet import VideoUNet

LATENTS = (1, 14, 4, 32, 64)  # 14 frames of 512x256


class Ledger:
    """Wall and processor seconds of each step, and the process's peak resident memory when the step was done."""

    def __init__(self):
        self.rows: list[dict] = []

    def step(self, name: str, do: Callable):
        wall, cpu = time.perf_counter(), time.process_time()
        made = do()
        wall, cpu = round(time.perf_counter() - wall, 1), round(time.process_time() - cpu, 1)
        peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
        self.rows.append({"step": name, "wall_s": wall, "cpu_s": cpu, "peak_gib_so_far": peak})
        print(f"{name:40} {wall:7.1f} s {cpu:7.1f} s cpu {peak:6.2f} GiB", file=sys.stderr, flush=True)
        return made


def main() -> int:
    """Run every step once in a temporary folder; exit code 1 when the clip is not finite or the twin's bits differ."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--forward", action="store_true", help="one step at 14 x 512x256 in fp32, and its loaded twin's"
    )
    options.add_argument("--json", action="store_true", help="print figures as JSON")
    options.add_argument("--folder", type=Path, help="where the temporary folder is made (default: the system's)")
    given = options.parse_args()
    ledger = Ledger()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder, torch.inference_mode():
        unet, cost = operate(ledger, Path(folder))
        checks = forward(ledger, unet, Path(folder)) if given.forward else {}
    surgery_rows = [row for row in ledger.rows if not row["step"].startswith("fp32")]
    figures = {
        "steps": ledger.rows,
        "surgery_wall_s": round(sum(row["wall_s"] for row in surgery_rows), 1),
        "surgery_cpu_s": round(sum(row["cpu_s"] for row in surgery_rows), 1),
        "surgery_peak_gib": surgery_rows[-1]["peak_gib_so_far"],
        "peak_gib": ledger.rows[-1]["peak_gib_so_far"],
        "tflops": round(cost.tflops, 3),
        "params_m": round(cost.params_m, 1),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {platform.system()}, torch {torch.__version__}",
        **checks,
    }
    print(json.dumps(figures, indent=2) if given.json else "\n".join(f"{k}: {v}" for k, v in figures.items()))
    return 0 if all(checks.values()) else 1


def operate(ledger: Ledger, folder: Path) -> tuple[VideoUNet, Cost]:
    """Build, edit in the ladder's order, save and load; the edited network, and its cost by count."""
    unet = ledger.step("build, random weights in half precision", built)
    log = [ledger.step("cross-attention", lambda: cross_attention.apply(unet))]
    log.append(ledger.step("temporal multiscaling", lambda: temporal_multiscale.apply(unet)))
    log.append(ledger.step("temporal pruning to 11 blocks", lambda: temporal_pruning.remove(unet, paper_keep(unet))))
    ledger.step("channel funnels, CSI", lambda: channel_funnel.attach(unet, 0.5, "spatial", "csi"))
    log.append(ledger.step("merge", lambda: channel_funnel.merge(unet)))
    ledger.step("save, every tensor described", lambda: surgery.save(unet, log, folder))
    ledger.step("load, every tensor checked", lambda: surgery.load(folder))
    return unet, count(unet, LATENTS)


def built(seed: int = 0) -> VideoUNet:
    """SVD's network with torch's own random start, drawn layer by layer in half precision: 3 GB, never 6."""
    torch.manual_seed(seed)
    unet = reference.unet().half()
    for module in unet.modules():
        module.to_empty(device="cpu", recurse=False)
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        else:
            for parameter in module.parameters(recurse=False):  # mix factors
                parameter.fill_(0.5)
    return unet.eval()


def forward(ledger: Ledger, unet: VideoUNet, folder: Path) -> dict[str, bool]:
    """One evaluation in fp32 from pure noise, by the network itself and then by the one loaded from ``folder``."""
    given = inputs(unet)
    whole = ledger.step("fp32 conversion", unet.float)
    clip = ledger.step("fp32 step, 14 x 512x256", lambda: OneStep(whole)(*given))
    unet.to_empty(device="meta")
    twin, _ = ledger.step("fp32 load of its twin", lambda: surgery.load(folder, torch.float32))
    again = ledger.step("fp32 step of its twin", lambda: OneStep(twin)(*given))
    return {
        "finite": bool(clip.isfinite().all()),
        "varies": bool(clip.std() > 0),
        "same_bits": torch.equal(clip, again),
    }


def inputs(unet: VideoUNet) -> tuple[torch.Tensor, ...]:
    """Unit noise and image latents at 14 x 512x256, one image token, the ids of 7 frames per second."""
    g = torch.Generator().manual_seed(1)
    noise, image = torch.randn(LATENTS, generator=g), torch.randn(1, *LATENTS[2:], generator=g)
    token = torch.randn(1, 1, unet.config.cross_attention_dim, generator=g)
    return noise, image, token, torch.tensor([[6.0, 127.0, 0.02]])


if __name__ == "__main__":
    sys.exit(main())
