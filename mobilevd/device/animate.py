"""A bundle in ONNX Runtime alone: one photograph in, one clip out, with neither torch nor diffusers installed.

**Keeps** torch's frames, the quantized network aside; files are checked before they are opened
(``tests/device/test_animate.py``). **Axes** photo H W 3, frames F H W 3, uint8.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from mobilevd import artifacts
from mobilevd.device import inputs
from mobilevd.device.normal import unit_noise
from mobilevd.device.session import open_session
from mobilevd.errors import IntegrityError, MobileVDError
from mobilevd.video.photo import fit

CONFIG = "pipeline.json"
NETWORKS, ENDS = "onnx", "ends"
QUANTIZED, FLOAT = "quantized.onnx", "float.onnx"
FRAME_ENCODER, IMAGE_ENCODER, DECODER = "frame_encoder.onnx", "image_encoder.onnx", "decoder.onnx"


@dataclass(frozen=True)
class Clip:
    """What one call gives: F frames to be shown at ``fps`` per second."""

    frames: UInt8[np.ndarray, "F H W 3"]
    fps: float


def check(folder: Path) -> None:
    """A whole bundle. Errors: MobileVDError for another folder; IntegrityError naming a file that changed."""
    if not (folder / CONFIG).is_file():
        allowed = f"a folder with {CONFIG}"
        raise MobileVDError("This folder is no bundle", got=str(folder), allowed=allowed, where="--model")
    artifacts.verify(folder)


class OnnxPipeline:
    """The quantized network (or another graph of ``onnx/``) between the graphs of ``ends/``."""

    def __init__(self, folder: Path, graph: str = QUANTIZED, threads: int | None = None):
        """Open a folder that was checked; see ``from_pretrained``."""
        folder = Path(folder)
        missing = [name for name in _graphs(graph) if not (folder / name).is_file()]
        if missing:
            raise IntegrityError("The bundle has no such graph", got=", ".join(missing), where=str(folder))
        self.settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        self.spec = inputs.load(folder / NETWORKS)
        self._encode, self._look, self._step, self._show = (
            open_session(folder / name, threads) for name in _graphs(graph)
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path, graph: str = QUANTIZED, threads: int | None = None) -> "OnnxPipeline":
        """Load a bundle. Errors: as ``check``."""
        check(Path(folder))
        return cls(Path(folder), graph, threads)

    def __call__(
        self,
        photo: UInt8[np.ndarray, "Hi Wi 3"],
        seed: int = 0,
        fps: float | None = None,
        motion_bucket: int | None = None,
    ) -> Clip:
        """Animate ``photo`` as ``MobileVDPipeline`` does: any size, and the same seed makes the same motion."""
        fps = self.settings["clip"]["fps"] if fps is None else fps
        [latents] = self._step.run(None, self.feed(photo, seed, fps, motion_bucket))
        video = _run(self._show, latents)
        frames = video.reshape(-1, *video.shape[-3:]).transpose(0, 2, 3, 1)
        return Clip(np.rint(frames * 255).astype(np.uint8), fps)

    def feed(
        self,
        photo: UInt8[np.ndarray, "Hi Wi 3"],
        seed: int = 0,
        fps: float | None = None,
        motion_bucket: int | None = None,
    ) -> dict[str, np.ndarray]:
        """What the one-step network is given for ``photo``."""
        fps = self.settings["clip"]["fps"] if fps is None else fps
        bucket = self.settings["motion_bucket"] if motion_bucket is None else motion_bucket
        image = self._fitted(photo)
        ids = np.array([[fps - 1, bucket, self.settings["augmentation_sigma"]]], np.float32)
        noise = unit_noise(seed, self.spec.inputs[0].shape)
        values = (noise, _run(self._encode, image), _run(self._look, image), ids)
        told = dict(zip(self.spec.names, values, strict=True))
        self.spec.check(told)
        return told

    def _fitted(self, photo: UInt8[np.ndarray, "Hi Wi 3"]) -> Float32[np.ndarray, "1 3 H W"]:
        """Scaled to cover the clip's size and cropped at the centre, as in training → [0, 1]."""
        clip = self.settings["clip"]
        picture = np.asarray(fit(Image.fromarray(photo), clip["width"], clip["height"]))
        return picture.transpose(2, 0, 1)[None].astype(np.float32) / 255


def _graphs(network: str) -> tuple[str, str, str, str]:
    return f"{ENDS}/{FRAME_ENCODER}", f"{ENDS}/{IMAGE_ENCODER}", f"{NETWORKS}/{network}", f"{ENDS}/{DECODER}"


def _run(session, value: np.ndarray) -> np.ndarray:
    """A graph of one input and one output; graphs differ in whether they state the batch of one."""
    [given] = session.get_inputs()
    [result] = session.run(None, {given.name: value.reshape(given.shape)})
    return result
