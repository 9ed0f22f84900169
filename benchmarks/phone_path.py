"""What it takes to leave for a phone: export, parity with torch, quantization, mixed precision, offline compilation.

Usage: python benchmarks/phone_path.py FOLDER [--size pocket|full] [--steps …] [--limit-s S]. Each step is a process of
its own, for its seconds and peak memory; FOLDER keeps the graphs and report.json, and what is in it is not done again.

pocket: the embedded base after every edit of params.yaml, on clips of two photographs. full: MobileVD at SVD's own size
(980 M parameters, 14 x 512x256) with random weights and inputs; its ends are SVD's.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SIZES = ("pocket", "full")
CALIBRATION, BUDGET_DB = {"pocket": 4, "full": 1}, 35.0
ROOT = Path(__file__).resolve().parents[1]
PHOTOS = ("coffee.png", "brick.png", "chelsea.png", "astronaut.png", "rocket.jpg")


def main() -> None:
    """Do what is missing, one process per step; print the report."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--size", choices=SIZES, default="pocket")
    options.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS))
    options.add_argument("--limit-s", type=float, default=3600.0, help="when a step is given up (default: an hour)")
    options.add_argument("--inside", choices=list(STEPS), help=argparse.SUPPRESS)
    given = options.parse_args()
    folder = given.folder.resolve() / given.size
    if given.inside:
        print(json.dumps(told(STEPS[given.inside], folder, given.size)))
        return
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / "report.json"
    known = json.loads(report.read_text()) if report.is_file() else {}
    for step in (name for name in given.steps if "error" in known.get(name, {"error": ""})):
        known[step] = apart(step, given)
        report.write_text(json.dumps(known, indent=2) + "\n")
    print(json.dumps(known, indent=2))


def told(step, folder: Path, size: str) -> dict:
    """What a step says; an error of the package as one more thing that it says."""
    from mobilevd.errors import MobileVDError

    try:
        return step(folder, size)
    except MobileVDError as error:
        return {"error": str(error)}


def apart(step: str, given: argparse.Namespace) -> dict:
    """What a step said, its seconds by the clock and of the processor, and its largest process."""
    words = [sys.executable, __file__, str(given.folder), "--size", given.size, "--inside", step]
    began = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        signal.signal(signal.SIGALRM, lambda *_: os.killpg(process.pid, signal.SIGKILL))
        signal.alarm(max(1, round(given.limit_s)))
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        signal.alarm(0)
        process.returncode = os.waitstatus_to_exitcode(status)
    spent = {"wall_s": time.perf_counter() - began, "cpu_s": used.ru_utime + used.ru_stime}
    spent = {name: round(value, 1) for name, value in spent.items()} | {"peak_gib": round(used.ru_maxrss / 2**20, 2)}
    failed = {"error": f"exit {process.returncode}, given up after {given.limit_s:g} s at most"}
    return (failed if process.returncode else json.loads(said.splitlines()[-1])) | spent


def export(folder: Path, size: str, name: str = "float", **how) -> dict:
    """The float graph, checked by ONNX's checker."""
    from mobilevd.device.export import export, file_bytes
    from mobilevd.device.one_clip import OneClip

    network, spec = network_of(size)
    export(OneClip(network), spec, folder / f"{name}.onnx", 20, **how)
    spec.save(folder)
    return {"mb": round(file_bytes(folder / f"{name}.onnx") / 1e6, 1), "parameters_m": millions(network)}


def parity(folder: Path, size: str) -> dict:
    """dB of the graph against torch on one clip."""
    from mobilevd.device.export import parity_db
    from mobilevd.device.one_clip import unbatched
    from mobilevd.svd.sampler import OneStep

    network, spec = network_of(size)
    step = OneStep(network.requires_grad_(False)).eval()
    return {"parity_db": round(parity_db(unbatched(step), folder / "float.onnx", spec, feeds(size, spec, 1)), 1)}


def ends(folder: Path, size: str) -> dict:
    """Both encoders and the decoder as graphs; dB of each against torch, the decoder's on a clip of two frames."""
    import torch

    from mobilevd.device.codecs import around
    from mobilevd.device.export import export, file_bytes, parity_db
    from mobilevd.svd.autoencoder import decode, encode
    from mobilevd.svd.conditioning import image_tokens

    vae, tower, (frames, *latents) = codecs_of(size)
    asked = {"image_encoder": lambda x: image_tokens(tower, x), "frame_encoder": lambda x: encode(vae, x)}
    asked["decoder"] = lambda z: decode(vae, z[None])[0]
    told = {}
    for name, (network, spec) in around(vae, tower, (frames, *latents)).items():
        path, random = folder / f"{name}.onnx", torch.Generator().manual_seed(0)
        export(network, spec, path, 20)
        told[f"{name}_mb"] = round(file_bytes(path) / 1e6, 1)
        if name == "decoder":
            network, spec = around(vae, tower, (2, *latents))[name]
            export(network, spec, path := folder / f"{name}-2.onnx", 20)
        feed = {spec.names[0]: torch.rand(spec.inputs[0].shape, generator=random).numpy()}
        told[f"{name}_parity_db"] = round(parity_db(asked[name], path, spec, [feed]), 1)
    return told


def quantize(folder: Path, size: str, quantizer: str, **how) -> dict:
    """Calibrate, quantize, and hold against float on a clip that calibration did not see."""
    from mobilevd.device import inputs
    from mobilevd.device.export import file_bytes
    from mobilevd.settings import Quantize
    from mobilevd.stages import quantize as stage

    spec, source, target = inputs.load(folder), folder / "float.onnx", folder / f"float-{quantizer}.onnx"
    settings = Quantize(quantizer=quantizer.partition("-")[0], **how)
    *calibration, checked = feeds(size, spec, CALIBRATION[size] + 1)
    made = stage.quantized(settings, source, target, calibration, [checked])
    told = {"sqnr_db": round(made.sqnr_db, 1), "mb": round(file_bytes(target) / 1e6, 1), "int16": len(made.rows)}
    return told | ({"wide": list(made.chosen.wide), "alone": made.chosen.alone} if made.chosen.alone else {})


def compile_(folder: Path, size: str) -> dict:
    """The W8A16 graph for the Snapdragon 8 Gen 3's NPU; at pocket size run once on Qualcomm's emulator, too."""
    from mobilevd.device import htp, inputs, preflight
    from mobilevd.device.targets import SNAPDRAGON
    from mobilevd.settings import Quantize

    graph = folder / "float-onnxruntime.onnx"
    preflight.check(graph, SNAPDRAGON).require()
    context = folder / "npu-float" / "context.onnx"
    if size == "full":
        report, _ = htp.compile_and_run(graph, SNAPDRAGON, context)
        return report.model_dump(mode="json", exclude={"on_cpu"}) | {"fallbacks": report.fallbacks}
    [feed] = feeds(size, inputs.load(folder), CALIBRATION[size] + 1)[-1:]
    report = htp.check(folder / "float.onnx", graph, SNAPDRAGON, context, [feed])
    told = report.model_dump(mode="json", exclude={"on_cpu"}) | {"fallbacks": report.fallbacks}
    return told | {"refused": refusal(htp.require, report, Quantize().min_sqnr_db)}


def blocks(folder: Path, size: str) -> dict:
    """Every block of the W8A16 graph for the same NPU, compiled by itself and not run; what was done stays."""
    import npu_blocks

    return npu_blocks.compiled(folder / "float-onnxruntime.onnx", folder / "npu-blocks")


def forms(folder: Path, size: str) -> dict:
    """Both forms of SiLU on the emulator, in as much of the network as it runs with Sigmoid and Mul."""
    import silu_forms

    from mobilevd.device import inputs

    return silu_forms.compared(folder, feeds(size, inputs.load(folder), CALIBRATION[size] + 1))


STEPS = {
    "export": export,
    "parity": parity,
    "ends": ends,
    "quantize": lambda *to: quantize(*to, "onnxruntime"),
    "quantize by aimet": lambda *to: quantize(*to, "aimet"),
    "mixed": lambda *to: quantize(*to, "onnxruntime-mixed", activations="mixed", budget_db=BUDGET_DB),
    "compile": compile_,
    "compile blocks": blocks,
    "export with Sigmoid": lambda *to: export(*to, "sigmoid", rewrite_silu=False),
    "compile with Sigmoid": forms,
}


def network_of(size: str):
    """The network and its border."""
    if size == "full":
        from ladder import built

        from mobilevd.device.inputs import one_step
        from mobilevd.evaluation.cost import LADDER

        return built(LADDER[-1]).requires_grad_(False), one_step(14, 4, 32, 64, 1024)
    from device import border, student

    from mobilevd import params
    from mobilevd.svd import base as bases

    recipe = params.load(ROOT / "params.yaml")
    base = bases.load(recipe.base)
    return student(base.unet(), recipe), border(base, recipe.clip)


def codecs_of(size: str):
    """Autoencoder, image encoder, and the shape of a clip's latents."""
    if size == "full":
        from mobilevd.svd import reference

        vae, tower = reference.autoencoder(), reference.image_encoder()
        made = type(vae).from_config(vae.config), type(tower)(tower.config)
        return *(network.eval().requires_grad_(False) for network in made), (14, 4, 32, 64)
    from device import border

    from mobilevd import params
    from mobilevd.svd import base as bases

    recipe = params.load(ROOT / "params.yaml")
    base = bases.load(recipe.base)
    return base.vae, base.image_encoder, border(base, recipe.clip).outputs[0].shape


def refusal(check, *given) -> str:
    """What ``check`` says against ``given``; empty when it says nothing."""
    from mobilevd.errors import EffectError

    try:
        check(*given)
    except EffectError as error:
        return str(error)
    return ""


def millions(network) -> float:
    """Parameters."""
    return round(sum(p.numel() for p in network.parameters()) / 1e6, 1)


def feeds(size: str, spec, count: int) -> list[dict[str, np.ndarray]]:
    """What the network sees: seeded noise, a clip's first frame, the ids of 7 frames per second."""
    import torch

    made = [spec.random(torch.Generator().manual_seed(k)) for k in range(count)]
    for feed, seen in zip(made, photographs(count) if size == "pocket" else [{}] * count, strict=True):
        feed.update(seen)
        feed["ids"][:] = [6.0, 127.0, 0.02]
    return made


def photographs(count: int) -> list[dict[str, np.ndarray]]:
    """Latents and token of photographs of the sample data, each at the clip's size."""
    from mobilevd import params
    from mobilevd.svd import base as bases
    from mobilevd.video import clips

    recipe = params.load(ROOT / "params.yaml")
    base, found = bases.load(recipe.base), []
    for name in PHOTOS[:count]:
        video, _ = clips.rendered(clips.photograph(ROOT / "data" / "photos" / name), name, 0, recipe.clip)
        seen = base.encode(video[:1])
        found.append(
            {
                "image_latents": seen["image_latents"][None].float().numpy(),
                "token": seen["tokens"][None].float().numpy(),
            }
        )
    return found


if __name__ == "__main__":
    main()
