"""One step of a student against the base's 50 evaluations, on ONNX Runtime's CPU, in one run.

Usage: python benchmarks/device.py [--repeats N]. The networks are the pocket base and the same after every edit of
params.yaml, untrained (time does not depend on weights), both exported as they ship; prints JSON.
"""

import argparse
import json
import platform
import resource
import tempfile
import time
from pathlib import Path

import torch

from mobilevd import params, settings
from mobilevd.device.export import export
from mobilevd.device.inputs import GraphSpec, one_step
from mobilevd.device.one_clip import OneClip
from mobilevd.device.profile import profile
from mobilevd.device.session import cpus
from mobilevd.device.targets import HOST_CPU
from mobilevd.method import channel_funnel, cross_attention, still_start, temporal_multiscale, temporal_pruning
from mobilevd.stages import ends
from mobilevd.svd import base as bases
from mobilevd.svd.unet import VideoUNet, temporal_blocks

ROOT = Path(__file__).resolve().parents[1]
EVALUATIONS = 50  # 25 steps, with and without the condition


def main() -> None:
    """Export, time, and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--repeats", type=int, default=10, help="timed runs of each graph (default: 10)")
    repeats = options.parse_args().repeats
    recipe = params.load(ROOT / "params.yaml")
    base = bases.load(recipe.base)
    spec = border(base, recipe.clip)
    with tempfile.TemporaryDirectory() as aside:
        figures = {"decoder_ms": timed(ends.graphs(base, recipe.clip, recipe.quantize.opset) / "decoder.onnx", repeats)}
        for name, network in (("base", base.unet()), ("student", student(base.unet(), recipe))):
            began, path = time.perf_counter(), Path(aside) / f"{name}.onnx"
            export(OneClip(network), spec, path, recipe.quantize.opset)
            figures |= {f"{name}_export_s": time.perf_counter() - began, f"{name}_ms": timed(path, repeats)}
    figures |= ratios(**{name: figures[name] for name in ("base_ms", "student_ms", "decoder_ms")})
    told = {name: round(value, 2) for name, value in figures.items()}
    told |= {"peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2), "cores": cpus()}
    print(json.dumps(told | {"machine": f"{platform.machine()}, {platform.system()}"}, indent=2))


def student(unet: VideoUNet, recipe: params.Recipe) -> VideoUNet:
    """``unet`` after the recipe's edits, in place; of its temporal blocks those stay that lie evenly over it."""
    cross_attention.apply(unet)
    temporal_multiscale.apply(unet)
    if recipe.distill.still_start:
        still_start.apply(unet, recipe.distill.still_start.sigma, bases.scaling_factor(recipe.base))
    names = list(temporal_blocks(unet))
    temporal_pruning.remove(unet, [names[i * len(names) // recipe.prune.keep] for i in range(recipe.prune.keep)])
    channel_funnel.attach(unet, recipe.funnel.fun_factor, recipe.funnel.where, "csi")
    channel_funnel.merge(unet)
    return unet


def border(base: bases.Base, clip: settings.Clip) -> GraphSpec:
    """What both networks take."""
    from mobilevd.svd.autoencoder import downscale

    down = downscale(base.vae)
    size = (clip.height // down, clip.width // down)
    return one_step(clip.frames, base.vae.config.latent_channels, *size, base.image_encoder.config.projection_dim)


def timed(path: Path, repeats: int) -> float:
    """Median ms of one run on noise, in a process of its own."""
    import onnxruntime as ort

    given = ort.InferenceSession(str(path)).get_inputs()
    generator = torch.Generator().manual_seed(0)
    feed = {i.name: torch.randn(*i.shape, generator=generator).numpy() for i in given}
    return profile(path, feed, HOST_CPU, warmup=1, repeats=repeats).figures["p50_ms"].value


def ratios(base_ms: float, student_ms: float, decoder_ms: float) -> dict[str, float]:
    """How many times faster a clip is, without and with the decoder that both need."""
    alone = EVALUATIONS * base_ms / student_ms
    whole = (EVALUATIONS * base_ms + decoder_ms) / (student_ms + decoder_ms)
    return {"times_faster": alone, "times_faster_with_decoder": whole}


if __name__ == "__main__":
    main()
