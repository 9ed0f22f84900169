"""What clips are compared by: I3D, or any network in an ONNX file that is named together with its digest.

**Keeps** a file of another digest, or one that does not read clips, is refused before anything is computed
(``tests/stages/test_extractor.py``); no pickle is read. **Axes** pixels 1 F 3 H W, features 1 D.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mobilevd.artifacts import file_sha256
from mobilevd.errors import IntegrityError, MobileVDError
from mobilevd.evaluation import i3d

PREPROCESSING: i3d.Preprocessing = "tf-reference"


class Extractor(NamedTuple):
    """A feature network: its digest, how pixels reach it, and the function from one clip of bytes to its features."""

    sha256: str
    resize: str
    features: Callable[[Tensor], Tensor]


def of_i3d(preprocessing: i3d.Preprocessing = PREPROCESSING) -> Extractor:
    """FVD's own network, read when the first clip needs it, with one of its preprocessings. Errors: as ``i3d.load``."""
    net = cache(i3d.load)
    return Extractor(i3d.CHECKPOINT_SHA256, preprocessing, lambda clip: i3d.features(clip, net(), preprocessing))


def of_file(path: Path, sha256: str, frames: int) -> Extractor:
    """The network in an ONNX file: one input float32 [1 F 3 H W], pixels in [0, 1], to one output [1 D].

    H and W are fixed in the graph, and clips are resized to them (bilinear, antialiased); what the network wants done
    to pixels after that belongs into the graph. Errors: IntegrityError for another digest; MobileVDError for a graph
    that does not read clips of ``frames`` frames.
    """
    from mobilevd.device.session import open_session

    if not Path(path).is_file() or (got := file_sha256(path)) != sha256:
        got = got if Path(path).is_file() else "no file"
        raise IntegrityError("The feature network is not the one named", got=got, allowed=sha256, where=str(path))
    session = open_session(path, torch.get_num_threads())
    height, width = _size(session, frames, path)
    name = session.get_inputs()[0].name

    def features(clip: Tensor) -> Tensor:
        pixels = F.interpolate(clip[0].float() / 255, (height, width), mode="bilinear", antialias=True)
        return torch.from_numpy(session.run(None, {name: pixels[None].numpy()})[0]).double()

    return Extractor(sha256, f"bilinear, antialiased, to {width}x{height}", features)


def _size(session, frames: int, path: Path) -> tuple[int, int]:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shapes = [list(item.shape) for item in (*inputs, *outputs)]
    fits = len(inputs) == len(outputs) == 1 and len(shapes[0]) == 5 and len(shapes[1]) == 2
    fits = fits and inputs[0].type == "tensor(float)" and all(isinstance(side, int) for side in shapes[0][3:])
    fits = fits and all(not isinstance(n, int) or n == want for n, want in zip(shapes[0], (1, frames, 3), strict=False))
    if not fits:
        allowed = f"float32 [1 {frames} 3 H W], H and W fixed, to [1 D]"
        raise MobileVDError(
            "The feature network does not read these clips", got=shapes, allowed=allowed, where=str(path)
        )
    return shapes[0][3], shapes[0][4]
