"""A trained model in one line: ``MobileVDPipeline.from_pretrained(folder)(image).frames``.

**Keeps** no training code is imported; every file's and every tensor's digest is checked on load
(``tests/test_pipeline.py``).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from mobilevd import artifacts
from mobilevd.errors import MobileVDError
from mobilevd.method import surgery
from mobilevd.settings import Clip
from mobilevd.svd import conditioning
from mobilevd.svd.autoencoder import downscale, encode
from mobilevd.svd.base import Base
from mobilevd.svd.sampler import OneStep, clip_noise
from mobilevd.video.photo import fit, on_white, upright

CONFIG = "pipeline.json"
Picture = str | Path | Image.Image | UInt8[Tensor, "3 Hi Wi"]


@dataclass(frozen=True)
class Output:
    """What one call gives: F frames, uint8 RGB, to be shown at ``fps`` per second."""

    frames: UInt8[Tensor, "F 3 H W"]
    fps: float


class MobileVDPipeline:
    """One image in, one clip out, in one evaluation of the network."""

    def __init__(self, base: Base, step: OneStep, clip: Clip, settings: dict):
        self.base, self.step, self.clip, self.settings = base, step, clip, settings

    @classmethod
    def from_pretrained(cls, folder: str | Path, dtype: torch.dtype | None = None) -> "MobileVDPipeline":
        """Load a bundle; its network computes in ``dtype`` (as stored when None), autoencoder and encoder in fp32.

        Errors: IntegrityError naming the file, or the network's tensor, that is missing or was changed.
        """
        folder = Path(folder)
        if not (folder / CONFIG).is_file():
            raise MobileVDError(
                "This folder is no bundle", got=str(folder), allowed=f"a folder with {CONFIG}", where="--model"
            )
        surgery.check(folder)  # first, for it names the tensor where the manifest names the file
        artifacts.verify(folder)
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        unet, _ = surgery.load(folder, dtype)
        return cls(Base(folder), OneStep(unet), Clip(**settings["clip"]), settings)

    def to(self, device: torch.device | str) -> "MobileVDPipeline":
        """Animate on ``device`` from now on; frames come back on the CPU. Returns itself."""
        self.base.to(torch.device(device))
        self.step.to(device)
        return self

    @torch.inference_mode()
    def __call__(
        self, image: Picture, seed: int = 0, fps: float | None = None, motion_bucket: int | None = None
    ) -> Output:
        """Animate ``image`` (any size: scaled to cover the clip and cropped at its centre).

        Args:
            image: a photograph's file, a PIL image, or uint8 RGB 3 Hi Wi.
            seed: chooses the motion; the same seed gives the same clip.
            fps: frames per second that the network is told and the clip is shown at (default: as trained).
            motion_bucket: 0–255, SVD's amount of motion (default: as trained).

        Errors: UnusableError for a file that is no photograph.
        """
        fps = self.clip.fps if fps is None else fps
        bucket = self.settings["motion_bucket"] if motion_bucket is None else motion_bucket
        first = _fitted(_picture(image), self.clip)[None].to(self.base.vae.device)
        token = conditioning.image_tokens(self.base.image_encoder, first)
        ids = conditioning.added_ids(1, fps, bucket, self.settings["augmentation_sigma"])
        given = clip_noise([seed], self._latent_shape()).to(first), encode(self.base.vae, first), token, ids.to(first)
        video = self.base.decode(self.step(*given))[0]
        return Output(video.mul(255).round().to(torch.uint8).cpu(), fps)

    def _latent_shape(self) -> tuple[int, int, int, int]:
        side = downscale(self.base.vae)
        channels = self.base.vae.config.latent_channels
        return self.clip.frames, channels, self.clip.height // side, self.clip.width // side


def _picture(image: Picture) -> Image.Image:
    if isinstance(image, Tensor):
        return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    return on_white(image) if isinstance(image, Image.Image) else upright(Path(image))


def _fitted(image: Image.Image, clip: Clip) -> Tensor:
    """Scaled to cover the clip's size and cropped at the centre, as in training → 3 H W in [0, 1]."""
    picture = fit(image, clip.width, clip.height)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div(255)
