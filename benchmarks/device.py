"""One step of a run's student against the base's 50 evaluations, on ONNX Runtime's CPU, in one run.

``python benchmarks/device.py runs/TrainFlow/RUN [--rounds N]``: the float graph that RUN ships, the pocket base (with
attention along time as torch has it, which a CPU computes sooner than the NPU's form, and as the student has it), and
the decoder, timed in turns on noise, each in a process of its own. Prints JSON: medians in ms, and how many times
faster a clip is, the median over rounds with the smallest and the largest.
"""

import argparse
import json
import platform
import resource
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from time_attention import EachPosition
from torch import nn

from mobilevd import params, settings
from mobilevd.device import rank4
from mobilevd.device.export import export
from mobilevd.device.inputs import GraphSpec, one_step
from mobilevd.device.one_clip import OneClip
from mobilevd.device.profile import profile
from mobilevd.device.session import cpus, open_session
from mobilevd.device.targets import HOST_CPU
from mobilevd.stages import ends
from mobilevd.svd import base as bases
from mobilevd.svd.autoencoder import downscale

ROOT = Path(__file__).resolve().parents[1]
EVALUATIONS = 50  # 25 steps, with and without the condition
RUNS = 10  # of a graph in its turn
PLAIN, SHIPPED, STUDENT, DECODER = "base", "base, attention along time as shipped", "student", "decoder"


def main() -> None:
    """Export the base, time all, and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("run", type=Path, help="the folder of a run that was quantized")
    options.add_argument("--rounds", type=int, default=7, help="how often each graph has its turn (default: 7)")
    options = options.parse_args()
    recipe = params.load(ROOT / "params.yaml")
    base = bases.load(recipe.base)
    opset, spec = recipe.quantize.opset, border(base, recipe.clip)
    told: dict = {}
    with tempfile.TemporaryDirectory() as aside:
        graphs = {STUDENT: options.run / "quantize" / "onnx" / "float.onnx"}
        graphs[DECODER] = ends.graphs(base, recipe.clip, opset) / "decoder.onnx"
        for name, form in ((PLAIN, EachPosition), (SHIPPED, rank4.TemporalAttention)):
            began, graphs[name] = time.perf_counter(), Path(aside) / f"{len(graphs)}.onnx"
            with attending(form):
                export(OneClip(base.unet()), spec, graphs[name], opset)
            told[f"{name}: export, s"] = round(time.perf_counter() - began, 1)
        times = in_turns(graphs, options.rounds)
    told |= {f"{name}, ms": round(float(np.median(values)), 1) for name, values in times.items()}
    told |= ratios(times) | {"rounds": options.rounds, "cores": cpus()}
    told["peak_memory_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    print(json.dumps(told | {"machine": f"{platform.machine()}, {platform.system()}"}, indent=2))


@contextmanager
def attending(form: type[nn.Module]):
    """Graphs made inside have attention along time in this form."""
    own, rank4.TemporalAttention = rank4.TemporalAttention, form
    try:
        yield
    finally:
        rank4.TemporalAttention = own


def border(base: bases.Base, clip: settings.Clip) -> GraphSpec:
    """What both networks take."""
    down = downscale(base.vae)
    size = (clip.height // down, clip.width // down)
    return one_step(clip.frames, base.vae.config.latent_channels, *size, base.image_encoder.config.projection_dim)


def in_turns(graphs: dict[str, Path], rounds: int) -> dict[str, np.ndarray]:
    """Graph → ms of every round, in which each graph has a process of its own: idle threads of others would count."""
    times = [[timed(path) for path in graphs.values()] for _ in range(rounds)]
    return dict(zip(graphs, np.array(times).T, strict=True))


def timed(path: Path) -> float:
    """Median ms of RUNS runs on seeded noise."""
    g = torch.Generator().manual_seed(0)
    feed = {given.name: torch.randn(*given.shape, generator=g).numpy() for given in open_session(path).get_inputs()}
    return profile(path, feed, HOST_CPU, warmup=1, repeats=RUNS).figures["p50_ms"].value


def ratios(times: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """How many times faster a clip is, without and with the decoder that both need: median and extremes of rounds."""
    student, decoder = times[STUDENT], times[DECODER]
    found = {}
    for name in (PLAIN, SHIPPED):
        whole = EVALUATIONS * times[name]
        found[f"times faster than the {name}"] = whole / student
        found[f"times faster than the {name}, with the decoder"] = (whole + decoder) / (student + decoder)
    return {name: [round(float(q), 1) for q in np.quantile(row, [0.5, 0.0, 1.0])] for name, row in found.items()}


if __name__ == "__main__":
    main()
