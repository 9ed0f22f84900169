"""Both ends of the network as graphs: photograph → latents and token, and latents → frames. They are the base's, the
same for every run of one base and one clip size, so they are exported once and kept in the cache.

**Keeps** parity with torch of 90 dB; what is taken from the cache has its digests (``tests/stages/test_ends.py``).
"""

import hashlib
import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from mobilevd.artifacts import file_sha256, seal, verify
from mobilevd.device.animate import DECODER, FRAME_ENCODER, IMAGE_ENCODER
from mobilevd.device.export import export, parity_db
from mobilevd.device.inputs import GraphSpec, InputSpec
from mobilevd.packages import cache_dir
from mobilevd.params import Clip
from mobilevd.svd import ends
from mobilevd.svd.autoencoder import downscale
from mobilevd.svd.base import Base

PARTS, READ = ("vae", "image_encoder"), (".json", ".safetensors")
EXPORTERS = ("torch", "onnx", "onnxruntime")


def graphs(base: Base, clip: Clip, opset: int) -> Path:
    """A sealed folder with the three graphs of ``base`` at the size of ``clip``.

    Errors: EffectError for a graph that is not torch's function; IntegrityError when the cached one was changed.
    """
    kept = cache_dir() / "ends" / _key(base, clip, opset)
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".part-") as aside:
            _export(base, clip, opset, Path(aside) / "ends")
            _keep(Path(aside) / "ends", kept)
    verify(kept)
    return kept


def _key(base: Base, clip: Clip, opset: int) -> str:
    """Everything the graphs depend on."""
    tools = {name: version(name) for name in EXPORTERS}
    files = [path for part in PARTS for path in sorted((base.folder / part).iterdir()) if path.suffix in READ]
    read = {path.relative_to(base.folder).as_posix(): file_sha256(path) for path in files}
    told = {"files": read, "clip": clip.model_dump(mode="json"), "opset": opset} | tools
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]


def _export(base: Base, clip: Clip, opset: int, folder: Path) -> None:
    for file, (network, spec) in _parts(base, clip).items():
        export(network, spec, folder / file, opset)
        random = spec.random(torch.Generator().manual_seed(0))
        parity_db(network, folder / file, spec, [random])
    seal(folder)


def _parts(base: Base, clip: Clip) -> dict[str, tuple[nn.Module, GraphSpec]]:
    vae, tower = base.vae, base.image_encoder
    side, channels = downscale(vae), vae.config.latent_channels
    latents = (channels, clip.height // side, clip.width // side)
    image = InputSpec(name="image", shape=(1, 3, clip.height, clip.width))
    frames = InputSpec(name="frames", shape=(1, clip.frames, 3, clip.height, clip.width))

    def spec(given: InputSpec, made: InputSpec) -> GraphSpec:
        return GraphSpec(inputs=(given,), outputs=(made,))

    return {
        FRAME_ENCODER: (ends.ImageLatents(vae), spec(image, InputSpec(name="image_latents", shape=(1, *latents)))),
        IMAGE_ENCODER: (
            ends.ImageToken(tower),
            spec(image, InputSpec(name="token", shape=(1, 1, tower.config.projection_dim))),
        ),
        DECODER: (
            ends.Frames(vae),
            spec(InputSpec(name="latents", shape=(1, clip.frames, *latents)), frames),
        ),
    }


def _keep(made: Path, kept: Path) -> None:
    try:
        made.rename(kept)
    except OSError:  # another process was first
        if not kept.exists():
            raise
        shutil.rmtree(made)
