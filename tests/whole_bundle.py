"""A sealed bundle with every graph in it, so small that exporting it takes seconds; "quantized" is the float graph.

Made once per run of tests, in a process of its own, where no annotation is checked while torch traces. What it leaves
in the cache serves every base with the parts ``vae(**SMALL)`` and ``tower()`` at its clip size.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import once
import pytest

FRAMES, SIDE, LATENT_SIDE = 3, 64, 8
SMALL = {"in_channels": 48, "out_channels": 48, "block_out_channels": (32, 32)}  # sees 4 x 4 pixels at once, as pocket
SMALL |= {"down_block_types": ("DownEncoderBlock2D",) * 2}


def path(factory: pytest.TempPathFactory) -> Path:
    """The bundle's folder, shared by all workers of a run: not to be changed."""
    return once.made(factory, "whole_bundle", _write_apart)


def _write_apart(folder: Path) -> None:
    home = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    words = [sys.executable, str(Path(__file__)), str(folder)]
    done = subprocess.run(words, env=os.environ | home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def border(token_dim: int):
    """What the network of this bundle takes and gives; one clip, without a batch axis."""
    from mobilevd.device.inputs import GraphSpec, InputSpec

    latents = (FRAMES, 4, LATENT_SIDE, LATENT_SIDE)
    shapes = {"noise": latents, "image_latents": (1, *latents[1:]), "token": (1, 1, token_dim), "ids": (1, 3)}
    given = tuple(InputSpec(name=name, shape=shape) for name, shape in shapes.items())
    return GraphSpec(inputs=given, outputs=(InputSpec(name="latents", shape=latents),))


def write(folder: Path) -> None:
    """Write and seal the bundle."""
    import one_step
    import tiny_svd

    from mobilevd.artifacts import MANIFEST, seal, write_json
    from mobilevd.device.export import export
    from mobilevd.device.one_clip import OneClip
    from mobilevd.method import surgery
    from mobilevd.settings import Clip
    from mobilevd.stages import ends
    from mobilevd.svd.base import Base

    tiny_svd.vae(**SMALL).save_pretrained(folder / "vae")
    tiny_svd.tower().save_pretrained(folder / "image_encoder")
    surgery.save(*one_step.edited(), folder)
    clip = {"frames": FRAMES, "fps": 7.0, "width": SIDE, "height": SIDE}
    write_json(folder / "pipeline.json", {"clip": clip, "motion_bucket": 127, "augmentation_sigma": 0.02})
    spec = border(tiny_svd.TOWER["projection_dim"])
    export(OneClip(surgery.load(folder)[0]), spec, folder / "onnx" / "float.onnx", 20)
    spec.save(folder / "onnx")
    shutil.copyfile(folder / "onnx" / "float.onnx", folder / "onnx" / "quantized.onnx")
    shutil.copytree(ends.graphs(Base(folder), Clip(**clip), 20), folder / "ends")
    (folder / "ends" / MANIFEST).unlink()
    seal(folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
