"""Both ends of the network as graphs: photograph → latents and token, and latents → frames. They are the base's, the
same for every run of one base and one clip size, so they are exported once and kept in the cache.

**Keeps** parity of 90 dB with the base; what is taken from the cache has its digests
(``tests/device/test_codecs.py``, ``tests/device/test_animate.py``).
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from mobilevd.artifacts import file_sha256, seal, verify
from mobilevd.device import codecs
from mobilevd.device.export import export, parity_db
from mobilevd.packages import cache_dir
from mobilevd.settings import Clip
from mobilevd.svd.autoencoder import decode, downscale, encode
from mobilevd.svd.base import Base
from mobilevd.svd.conditioning import image_tokens

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
    side = downscale(base.vae)
    latents = (clip.frames, base.vae.config.latent_channels, clip.height // side, clip.width // side)
    for name, (network, spec) in codecs.around(base.vae, base.image_encoder, latents).items():
        path = folder / f"{name}.onnx"
        export(network, spec, path, opset)
        generator = torch.Generator().manual_seed(0)
        given = torch.randn if name == "decoder" else torch.rand  # latents, or pixels in [0, 1]
        feeds = [{spec.names[0]: given(spec.inputs[0].shape, generator=generator).numpy()}]
        parity_db(_in_torch(base)[name], path, spec, feeds)
    seal(folder)


def _in_torch(base: Base) -> dict[str, Callable[[Tensor], Tensor]]:
    """What the base itself computes, for one clip."""
    return {
        "image_encoder": lambda image: image_tokens(base.image_encoder, image),
        "frame_encoder": lambda image: encode(base.vae, image),
        "decoder": lambda latents: decode(base.vae, latents[None])[0],
    }


def _keep(made: Path, kept: Path) -> None:
    try:
        made.rename(kept)
    except OSError:  # another process was first
        if not kept.exists():
            raise
        shutil.rmtree(made)
