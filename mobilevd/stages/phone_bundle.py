"""The phone bundle: the quantized network between its ends, an example that needs no torch, and the NPU's own binary.

**Keeps** what it holds runs without this package, every file is in its digest list, and the example makes the film that
``mobilevd generate`` makes (``tests/stages/test_phone_bundle.py``).
"""

import shutil
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mobilevd.artifacts import seal, verify, write_json
from mobilevd.device import animate, htp, inputs, normal, preflight
from mobilevd.device.quiet import quiet
from mobilevd.device.session import open_session
from mobilevd.device.targets import SNAPDRAGON
from mobilevd.device_settings import Effort
from mobilevd.errors import IntegrityError, MobileVDError
from mobilevd.stages import models

if TYPE_CHECKING:
    from mobilevd.svd.taesd import TinyDecoder

NETWORK = f"{animate.NETWORKS}/{animate.QUANTIZED}"
GRAPHS = (NETWORK, *(f"{animate.ENDS}/{e}" for e in (animate.IMAGE_ENCODER, animate.FRAME_ENCODER, animate.DECODER)))
TEXTS = (animate.CONFIG, f"{animate.NETWORKS}/{inputs.SPEC_FILE}")
EXAMPLE = {Path(normal.__file__).with_name("phone_animate.py"): "animate.py", Path(normal.__file__): "normal.py"}
CARD = "README.md"
NPU, SAMPLE, EXPECTED = "npu", "sample", "latents.raw"
MB = 1e6

README = """# A phone bundle

One photograph in, one film out, in one evaluation of the network: quantized ONNX (QDQ) between its encoders and its
decoder. Every file's sha256 is in `manifest.json`.

    pip install numpy onnxruntime pillow
    python animate.py photo.jpg ../film.webp     # checks every digest first; films belong outside of this folder

`mobilevd generate photo.jpg film.mp4 --backend onnx --model THIS_FOLDER` takes it, too.
{npu}
| file | MB |
|---|---|
{rows}
"""
ON_NPU = """
`npu/` holds the one step compiled for the Snapdragon 8 Gen 3 ({mb:.1f} MB, {partitions} partition, effort {effort}; on
Qualcomm's emulator {db:.1f} dB to ONNX Runtime's CPU), by {tools}. `QNN_SDK_ROOT=… sh npu/run_adb.sh` runs it on a
phone that is plugged in, with Qualcomm's AI Engine Direct SDK, and compares its output. The script was never run
on one: none was at hand.
"""
RUN_ADB = """#!/bin/sh
# The one step on the NPU of a Snapdragon 8 Gen 3 that is plugged in: QNN_SDK_ROOT=... sh run_adb.sh
# Needs adb, numpy for the comparison, and Qualcomm's AI Engine Direct SDK, no older than the one that compiled the
# binary (@TOOLS@). ANDROID_SERIAL chooses among phones.
set -eu
cd "$(dirname "$0")"
end() {
    echo "run_adb.sh: $1" >&2
    exit 1
}
: "${QNN_SDK_ROOT:?must name the folder of the AI Engine Direct SDK}"
there=/data/local/tmp/mobilevd-npu
set -- bin/aarch64-android/qnn-net-run lib/aarch64-android/libQnnHtp.so lib/aarch64-android/libQnnSystem.so \\
    lib/aarch64-android/libQnnHtpV75Stub.so lib/hexagon-v75/unsigned/libQnnHtpV75Skel.so
for name in "$@"; do
    [ -f "$QNN_SDK_ROOT/$name" ] || end "no $name in $QNN_SDK_ROOT: QNN_SDK_ROOT must name the AI Engine Direct SDK"
done
command -v adb > /dev/null || end "adb is not on PATH: install Android's platform-tools"
python3 -c 'import numpy' || end "python3 with numpy is needed to compare the phone's output"
[ "$(adb get-state)" = device ] ||
    end "no phone answers: see adb devices; it needs USB debugging; among several, ANDROID_SERIAL names one"
out=$(mktemp -d)
trap 'rm -rf "$out"; adb shell "rm -rf $there"' EXIT
adb shell "rm -rf $there && mkdir -p $there"
for name in "$@"; do
    adb push "$QNN_SDK_ROOT/$name" "$there/"
done
adb push @BINARY@ input_list.txt sample "$there/"
adb shell "cd $there && chmod +x qnn-net-run && LD_LIBRARY_PATH=. ADSP_LIBRARY_PATH=. ./qnn-net-run \\
    --backend libQnnHtp.so --retrieve_context @BINARY@ --input_list input_list.txt --output_dir out \\
    --perf_profile burst --profiling_level basic --num_inferences 20"
adb pull "$there/out" "$out/"
python3 -c '
import glob, numpy, sys
wanted = numpy.fromfile("sample/latents.raw", "float32")
got = numpy.fromfile(glob.glob(sys.argv[1] + "/out/Result_0/*.raw")[0], "float32")
noise = max(((wanted - got) ** 2).sum(), 1e-30)
db = 10 * numpy.log10((wanted**2).sum() / noise)
print("%.1f dB to ONNX Runtime on a CPU" % db)
sys.exit(None if db >= @LOWEST@ else "run_adb.sh: the phone computes something else: at least @LOWEST@ dB are due")
' "$out"
"""


def write(
    model: str, out: Path, npu: bool = False, tiny_decoder: Path | None = None, effort: Effort = "default"
) -> list[dict]:
    """Make the folder ``out`` from a bundle, whole or not at all; its files and their MB.

    Args:
        model: a bundle's folder, ``s3://…`` or ``models:/…``.
        npu: compile the network for the Snapdragon 8 Gen 3, and check it on the emulator.
        tiny_decoder: TAESD's weights, to take its decoder instead of the model's.
        effort: with npu, how long the compiler looks for a faster graph.
    Errors: MobileVDError when ``out`` exists; IntegrityError for a bundle that changed or lacks a graph; EffectError
    when the NPU does not take the network as a whole.
    """
    if effort != "default" and not npu:
        what, allowed = "An effort, but nothing to compile", "it goes with --npu"
        raise MobileVDError(what, got=effort, allowed=allowed, where="--effort")
    if (out := Path(out).resolve()).exists():
        raise MobileVDError("The folder is there already", got=str(out), allowed="a folder to be made", where="OUT")
    if npu:
        htp.require_installed()
    decoder = _tiny_decoder(tiny_decoder) if tiny_decoder is not None else None
    bundle = models.folder(model, "MODEL")
    verify(bundle)
    plain = f"{animate.NETWORKS}/{animate.FLOAT}"
    if npu and not (bundle / plain).is_file():
        allowed = "a bundle of the registry: the NPU's output is held against the float network's"
        raise IntegrityError("The bundle has no such file", got=plain, allowed=allowed, where=str(bundle))
    if npu and (bundle / NETWORK).is_file():
        preflight.check(bundle / NETWORK, SNAPDRAGON).require()
    aside = out.with_name(out.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    for name in (*GRAPHS, *TEXTS):
        _copy(bundle, name, aside)
    for source, name in EXAMPLE.items():
        shutil.copyfile(source, aside / name)
    if (bundle / CARD).is_file():
        shutil.copyfile(bundle / CARD, aside / "MODEL.md")
    if decoder is not None:
        _take_tiny_decoder(bundle, decoder, aside / GRAPHS[-1])
    told = _compiled(bundle, aside, effort) if npu else ""
    rows = _sizes(aside)
    table = "\n".join(f"| {row['file']} | {row['MB']:.2f} |" for row in rows)
    (aside / "README.md").write_text(README.format(npu=told, rows=table), encoding="utf-8")
    seal(aside)
    aside.rename(out)
    return rows


def _copy(bundle: Path, name: str, folder: Path) -> None:
    """One file, and the weights beside a graph."""
    if not (bundle / name).is_file():
        raise IntegrityError("The bundle has no such file", got=name, where=str(bundle))
    for source in (bundle / name, bundle / f"{name}.data"):
        if source.is_file():
            target = folder / source.relative_to(bundle)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def _tiny_decoder(weights: Path) -> "TinyDecoder":
    """Errors: as of ``TinyDecoder``."""
    from mobilevd.svd.taesd import TinyDecoder

    return TinyDecoder(Path(weights))


def _take_tiny_decoder(bundle: Path, decoder: "TinyDecoder", target: Path) -> None:
    """Errors: MobileVDError when the model's latents are not Stable Diffusion's, which TAESD decodes."""
    import torch

    from mobilevd.device.codecs import decoder_spec
    from mobilevd.device.export import export, parity_db
    from mobilevd.svd.autoencoder import downscale
    from mobilevd.svd.base import Base
    from mobilevd.svd.taesd import DOWNSCALE, SCALING_FACTOR

    vae, [latents] = Base(bundle).vae, inputs.load(bundle / animate.NETWORKS).outputs
    got = (vae.config.scaling_factor, vae.config.latent_channels, downscale(vae))
    wanted = (SCALING_FACTOR, 4, DOWNSCALE)
    if got != wanted:
        what = "TAESD does not decode this model's latents"
        raise MobileVDError(what, got=got, allowed=f"scaling factor, channels, scale {wanted}", where="--tiny-decoder")
    spec = decoder_spec(latents.shape, DOWNSCALE)
    for old in (target, target.with_name(target.name + ".data")):
        old.unlink(missing_ok=True)
    export(decoder, spec, target, opset=20)
    parity_db(decoder, target, spec, [spec.random(torch.Generator().manual_seed(0))])


def _compiled(bundle: Path, folder: Path, effort: Effort) -> str:
    """The context binary, inputs for a phone and what the CPU makes of them; what the README says of it."""
    there, plain = folder / NPU, bundle / animate.NETWORKS / animate.FLOAT
    feed = _sample(folder)
    report = htp.check(plain, folder / NETWORK, SNAPDRAGON, there / "c.onnx", [feed], effort)
    htp.require(report, min_sqnr_db=0.0)  # how near it is to float was judged when it was quantized
    write_json(there / "report.json", report.model_dump(mode="json"))
    names = htp.inputs_of(there / "c.onnx")
    (there / SAMPLE).mkdir()
    for name, value in feed.items():
        value.astype("<f4").tofile(there / SAMPLE / f"{name}.raw")
    with quiet("the bundle's sample"):
        [latents] = open_session(folder / NETWORK).run(None, feed)
    latents.astype("<f4").tofile(there / SAMPLE / EXPECTED)
    line = " ".join(f"{on_npu}:={SAMPLE}/{name}.raw" for on_npu, name in names.items())
    (there / "input_list.txt").write_text(line + "\n", encoding="utf-8")
    [binary] = there.glob("*.bin")
    tools = ", ".join(f"{name} {version}" for name, version in sorted(report.tools.items()))
    (there / "run_adb.sh").write_text(script(binary.name, tools), encoding="utf-8")
    told = {"mb": report.context_mb, "partitions": report.partitions, "effort": effort, "tools": tools}
    return ON_NPU.format(db=report.sqnr_to_cpu_db, **told)


def script(binary: str, tools: str) -> str:
    """What runs ``binary``, which ``tools`` compiled, on a phone, and compares what comes back."""
    words = {"@BINARY@": binary, "@TOOLS@": tools, "@LOWEST@": f"{htp.AGREES_DB:g}"}
    return reduce(lambda text, word: text.replace(*word), words.items(), RUN_ADB)


def _sample(folder: Path) -> dict[str, np.ndarray]:
    """A grey photograph, seed 0."""
    pipeline = animate.OnnxPipeline(folder)
    clip = pipeline.settings["clip"]
    return pipeline.feed(np.full((clip["height"], clip["width"], 3), 127, np.uint8))


def _sizes(folder: Path) -> list[dict]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [{"file": p.relative_to(folder).as_posix(), "MB": p.stat().st_size / MB} for p in files]
