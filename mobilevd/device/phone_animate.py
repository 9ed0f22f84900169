"""Animate a photograph with this folder alone: ``python animate.py PHOTO OUT.webp [SEED]``, OUT.gif too.

Needs numpy, onnxruntime and pillow. It is copied into phone bundles, beside ``normal.py``.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from PIL import Image, ImageOps

sys.dont_write_bytecode = True  # the folder's files are those of its digest list
from normal import unit_noise  # noqa: E402

HOME = Path(__file__).resolve().parent


def main() -> None:
    """One photograph in, one film out; the same seed makes the same motion."""
    options = argparse.ArgumentParser(description="Animate a photograph with this folder alone.")
    options.add_argument("photo", help="a picture that Pillow reads")
    options.add_argument("out", help="the film: its name ends in .webp or .gif")
    options.add_argument("seed", type=int, nargs="?", default=0)
    given = options.parse_args()
    if not given.out.lower().endswith((".webp", ".gif")):
        options.error(f"the film's name must end in .webp or .gif, got {given.out}")
    check()
    settings = json.loads((HOME / "pipeline.json").read_text(encoding="utf-8"))
    try:
        image = fitted(given.photo, settings["clip"])
    except OSError as error:
        options.error(f"the photograph cannot be read: {error}")
    film(animate(image, settings, given.seed), given.out, settings["clip"]["fps"])


def film(frames: np.ndarray, out: str, fps: float) -> None:
    """Write the frames as one picture that moves."""
    pictures = [Image.fromarray(frame) for frame in frames]
    duration = round(1000 / fps)
    pictures[0].save(out, save_all=True, append_images=pictures[1:], duration=duration, loop=0, lossless=True)
    print(f"{out}: {len(pictures)} frames")


def check() -> None:
    """Every file has the digest that the manifest lists."""
    for name, digest in json.loads((HOME / "manifest.json").read_text(encoding="utf-8"))["files"].items():
        if not (HOME / name).is_file():
            raise SystemExit(f"{name} is missing in {HOME}")
        if hashlib.sha256((HOME / name).read_bytes()).hexdigest() != digest:
            raise SystemExit(f"{name} is not the file that was bundled")


def fitted(photo: str, clip: dict) -> np.ndarray:
    """Upright, scaled to cover the clip's size and cut at the centre → [1 3 H W] in [0, 1]."""
    picture = ImageOps.exif_transpose(Image.open(photo))
    if picture.mode.startswith("I;16"):  # Pillow would cut sixteen bits of grey off at white
        picture = picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    over = picture.convert("RGBA")  # what is transparent is white, not the colour that lies hidden there
    picture = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    picture = ImageOps.fit(picture, (clip["width"], clip["height"]), Image.Resampling.BICUBIC)
    return np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / 255


def animate(image: np.ndarray, settings: dict, seed: int) -> np.ndarray:
    """Image → frames [F H W 3], uint8."""
    feed = told(image, settings, seed)
    step = opened("onnx/quantized.onnx")
    [latents] = step.run(None, {given.name: feed[given.name].reshape(given.shape) for given in step.get_inputs()})
    video = run("ends/decoder.onnx", latents)
    return np.rint(video.reshape(-1, *video.shape[-3:]).transpose(0, 2, 3, 1) * 255).astype(np.uint8)


def told(image: np.ndarray, settings: dict, seed: int) -> dict[str, np.ndarray]:
    """What the one-step network is given."""
    clip, noise = settings["clip"], opened("onnx/quantized.onnx").get_inputs()[0]
    ids = [[clip["fps"] - 1, settings["motion_bucket"], settings["augmentation_sigma"]]]
    return {
        "noise": unit_noise(seed, tuple(noise.shape)),
        "image_latents": run("ends/frame_encoder.onnx", image),
        "token": run("ends/image_encoder.onnx", image),
        "ids": np.array(ids, np.float32),
    }


def opened(name: str) -> ort.InferenceSession:
    """A graph of this folder. The setting keeps int8 weights from being multiplied by 8-bit activations."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return ort.InferenceSession(str(HOME / name), options, providers=["CPUExecutionProvider"])


def run(name: str, value: np.ndarray) -> np.ndarray:
    """A graph of one input and one output."""
    session = opened(name)
    [given] = session.get_inputs()
    [result] = session.run(None, {given.name: value.reshape(given.shape)})
    return result


if __name__ == "__main__":
    main()
