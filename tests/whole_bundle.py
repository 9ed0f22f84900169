"""A sealed bundle with every graph in it, so small that exporting it takes seconds; "quantized" is the float graph.

Made once per run of tests. What it leaves in the cache serves every base with the parts ``vae(**SMALL)`` and
``tower()`` at its clip size.
"""

import shutil
from pathlib import Path

import once
import one_step
import one_step_graphs
import pytest
import tiny_svd

from mobilevd.artifacts import MANIFEST, seal, write_json
from mobilevd.method import surgery
from mobilevd.settings import Clip
from mobilevd.stages import ends
from mobilevd.svd.base import Base

FRAMES, SIDE = one_step.FRAMES, 64
SMALL = {"in_channels": 48, "out_channels": 48, "block_out_channels": (32, 32)}  # sees 4 x 4 pixels at once, as pocket
SMALL |= {"down_block_types": ("DownEncoderBlock2D",) * 2}


def path(factory: pytest.TempPathFactory) -> Path:
    """The bundle's folder, shared by all workers of a run: not to be changed."""
    return once.made(factory, "whole_bundle", lambda folder: _write(folder, one_step_graphs.copy(factory).float_path))


def _write(folder: Path, graph: Path) -> None:
    tiny_svd.vae(**SMALL).save_pretrained(folder / "vae")
    tiny_svd.tower().save_pretrained(folder / "image_encoder")
    surgery.save(*one_step.edited(), folder)
    clip = {"frames": FRAMES, "fps": 7.0, "width": SIDE, "height": SIDE}
    write_json(folder / "pipeline.json", {"clip": clip, "motion_bucket": 127, "augmentation_sigma": 0.02})
    one_step.SPEC.save(folder / "onnx")
    for name in ("float.onnx", "quantized.onnx"):
        shutil.copyfile(graph, folder / "onnx" / name)
    shutil.copytree(ends.graphs(Base(folder), Clip(**clip), 20), folder / "ends")
    (folder / "ends" / MANIFEST).unlink()
    seal(folder)
