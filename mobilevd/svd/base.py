"""What a run starts from: SVD from the hub or a folder, or the embedded pocket base; one loader for all.

**Keeps** safetensors only, no tensor missing or extra, the pocket's digests checked on every load; half-precision
copies beside full weights are neither fetched nor counted (``tests/svd/test_base.py``, ``test_base_of_hub.py``).
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from transformers import CLIPVisionModelWithProjection
from transformers import logging as transformers_logging

from mobilevd import artifacts
from mobilevd.errors import IntegrityError, RecipeError
from mobilevd.packages import project_root
from mobilevd.settings import Clip
from mobilevd.shapes import Video
from mobilevd.svd import autoencoder, weights
from mobilevd.svd.conditioning import image_tokens
from mobilevd.svd.scheduler import Schedule, read
from mobilevd.svd.unet import VideoUNet
from mobilevd.svd.upstream import AutoencoderKLTemporalDecoder
from mobilevd.svd.upstream import logging as diffusers_logging

POCKET = "pocket"
PARTS, VAE_CONFIG = ("unet", "vae", "image_encoder"), "vae/config.json"
SVDS_SCALE = 0.18215  # what diffusers' autoencoder takes where its configuration says nothing
DOWNLOADED = ["model_index.json", "*/config.json", "*/*.json", "*/*.safetensors"]
HALF = ".fp16"  # in the names of half-precision copies, which nothing reads where the full weights are
MISFIT = "The base's weights do not fit its configuration"

diffusers_logging.disable_progress_bar()
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()  # its note on torchvision concerns an image processor not used here


@dataclass(frozen=True)
class Base:
    """A folder in diffusers layout; every part is loaded when it is first asked for, in fp32."""

    folder: Path

    @cached_property
    def digest(self) -> str:
        """sha256 over the weights and configurations of every part, and over the schedule where it is not SVD's."""
        parts = self._digest_of(PARTS)
        if self.schedule == Schedule():
            return parts
        return hashlib.sha256(f"{parts} {json.dumps(asdict(self.schedule), sort_keys=True)}".encode()).hexdigest()

    @cached_property
    def encoder_digest(self) -> str:
        """sha256 over what latents and tokens depend on: autoencoder and image encoder."""
        return self._digest_of(("vae", "image_encoder"))

    @cached_property
    def vae(self) -> AutoencoderKLTemporalDecoder:
        """The autoencoder, frozen."""
        return _frozen(_load(AutoencoderKLTemporalDecoder, self.folder / "vae"))

    @cached_property
    def image_encoder(self) -> CLIPVisionModelWithProjection:
        """The vision encoder, frozen."""
        return _frozen(_load(CLIPVisionModelWithProjection, self.folder / "image_encoder"))

    def unet(self) -> VideoUNet:
        """A fresh copy of the network, unedited."""
        return _load(VideoUNet, self.folder / "unet").float()

    @cached_property
    def schedule(self) -> Schedule:
        """The noise levels that the many-step sampler visits."""
        return read(self.folder)

    @property
    def unet_config(self) -> dict:
        """The network's configuration as stored."""
        return json.loads((self.folder / "unet" / "config.json").read_text(encoding="utf-8"))

    @torch.no_grad()
    def encode(self, video: UInt8[Tensor, "F 3 H W"]) -> dict[str, Tensor]:
        """One clip → ``latents`` F C h w (scaled), ``image_latents`` C h w (raw), ``tokens`` 1 D; fp16, on the CPU."""
        frames = video.to(self.vae.device).float().div(255)
        raw = autoencoder.encode(self.vae, frames)
        token = image_tokens(self.image_encoder, frames[:1])[0]
        encoded = {"latents": raw * self.vae.config.scaling_factor, "image_latents": raw[0], "tokens": token}
        return {name: tensor.half().cpu() for name, tensor in encoded.items()}

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B F C h w"]) -> Video:
        """Scaled latents B F C h w → pixels in [0, 1] B F 3 H W, where the autoencoder is."""
        return autoencoder.decode(self.vae, latents.to(self.vae.device).float())

    def to(self, device: torch.device) -> "Base":
        """Encode and decode on ``device`` from now on; returns itself."""
        self.vae.to(device)
        self.image_encoder.to(device)
        return self

    def check_clip(self, clip: Clip) -> None:
        """Refuse a clip size whose latents this network cannot halve three times. Errors: RecipeError."""
        config = json.loads((self.folder / VAE_CONFIG).read_text(encoding="utf-8"))
        patch = round((config["in_channels"] / 3) ** 0.5)
        side = patch * 2 ** (len(config["block_out_channels"]) - 1)
        side *= 2 ** (len(self.unet_config["block_out_channels"]) - 1)
        if clip.width % side or clip.height % side:
            raise RecipeError(
                "The clip size does not fit the base",
                got=f"{clip.width}x{clip.height}",
                allowed=f"width and height that are multiples of {side}",
                where="clip.width and clip.height of the recipe",
            )

    def _digest_of(self, parts: tuple[str, ...]) -> str:
        files = [path for part in parts for path in _counted(self.folder / part)]
        lines = [f"{p.relative_to(self.folder).as_posix()} {artifacts.file_sha256(p)}" for p in files]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def load(base: str) -> Base:
    """Find the base: "pocket", a folder in diffusers layout, or a hub id ("stabilityai/…", "stabilityai/…@revision").

    Errors: RecipeError when it cannot be found, is not handed out or is no SVD; IntegrityError when the pocket's files
    were changed.
    """
    folder = pocket_folder() if base == POCKET else _located(base)
    if base == POCKET:
        artifacts.verify(folder)
    _check_layout(folder, base)
    return Base(folder)


def pocket_folder() -> Path:
    """Where the embedded base lies."""
    folder = project_root() / "pocket" / "base"
    if not folder.is_dir():
        raise IntegrityError("The pocket base is gone", got=str(folder), where="git checkout pocket/base")
    return folder


def scaling_factor(base: str) -> float:
    """From raw latents to those that the network learns. Of a base at the hub, nothing but one file is fetched.

    Errors: RecipeError when it cannot be found.
    """
    folder = pocket_folder() if base == POCKET else _folder(base)
    folder = folder if folder.is_dir() else _fetched(base, [VAE_CONFIG])
    return float(json.loads((folder / VAE_CONFIG).read_text(encoding="utf-8")).get("scaling_factor", SVDS_SCALE))


def is_here(base: str) -> bool:
    """Whether the base is on this machine's disk, and no id of the hub."""
    return base == POCKET or _folder(base).is_dir()


def _located(base: str) -> Path:
    folder = _folder(base)
    return folder if folder.is_dir() else _downloaded(base)


def _folder(base: str) -> Path:
    folder = Path(base).expanduser()
    return folder if folder.is_absolute() or folder.exists() else project_root() / folder


def _downloaded(base: str) -> Path:
    """A base at the hub, in full precision; in half precision too where a part has no other weights."""
    folder = _fetched(base, DOWNLOADED, [f"*{HALF}*"])
    full = all(any((folder / part).glob("*.safetensors")) for part in PARTS)
    return folder if full else _fetched(base, DOWNLOADED)


def _fetched(base: str, patterns: list[str], but: list[str] | None = None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = base.partition("@")
    try:
        found = snapshot_download(name, revision=revision or None, allow_patterns=patterns, ignore_patterns=but)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise _refusal(base, error) from None
    return Path(found)


def _refusal(base: str, error: Exception) -> RecipeError:
    """What to do about a base that the hub did not give; it says 401 of one that is not there and of a closed one."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    got, page = f"{base} ({type(error).__name__})", f"its page at the hub, {base.partition('@')[0]}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, RevisionNotFoundError):
        what, allowed = "The base has no such revision", f"a branch, tag or commit on {page}"
    elif isinstance(error, RepositoryNotFoundError) or status in (401, 403):
        what = "The hub does not hand out the base: it is gated, private or not there"
        allowed = f"accept the licence on {page}, and set HF_TOKEN, in machines.secrets on a cluster"
    else:
        what = "The base cannot be found"
        allowed = f"{POCKET}, a folder in diffusers layout, or a hub id that this machine can reach"
    return RecipeError(what, got=got, allowed=allowed, where="base: in the recipe")


def _check_layout(folder: Path, base: str) -> None:
    missing = [part for part in PARTS if not (folder / part / "config.json").is_file()]
    if missing:
        raise RecipeError(
            "The base is not in diffusers layout",
            got=f"{base}, without {', '.join(f'{part}/config.json' for part in missing)}",
            allowed="unet, vae and image_encoder folders with config.json and safetensors",
            where="base: in the recipe",
        )


def _load(kind: type, folder: Path):
    """Load one part in fp32; its half-precision variant when that is the only one there. Never a pickle.

    Errors: RecipeError without safetensors; IntegrityError for a tensor missing, extra, misshapen or cut off, by name.
    """
    variant, files = _stored(folder)
    for path in files:
        weights.check_whole(path)
    if kind is CLIPVisionModelWithProjection:
        options = {"dtype": torch.float32, "ignore_mismatched_sizes": True}  # so that they are told, and refused below
    else:
        options = {"torch_dtype": torch.float32}
    try:
        part, told = kind.from_pretrained(
            folder, variant=variant, use_safetensors=True, output_loading_info=True, **options
        )
    except ValueError as error:  # how diffusers tells of a misshapen tensor
        raise IntegrityError(MISFIT, got=str(error).split(". If you")[0], where=str(folder)) from None
    weights.refuse(MISFIT, _misfits(told), folder)
    return part


def _stored(folder: Path) -> tuple[str | None, list[Path]]:
    """The variant to read, and its files: one, or the shards that an index lists."""
    chosen = [path for path in _counted(folder) if ".safetensors" in path.suffixes]
    if not chosen:
        raise RecipeError(
            "The base has no safetensors weights", got=str(folder), allowed="*.safetensors", where="base:"
        )
    indices = [path for path in chosen if path.suffix == ".json"]
    listed = {name for index in indices for name in json.loads(index.read_bytes())["weight_map"].values()}
    half = all(HALF in path.name for path in chosen)
    return "fp16" if half else None, [folder / name for name in sorted(listed)] or chosen


def _counted(folder: Path) -> list[Path]:
    """The files of one part, without half-precision copies of weights that are there in full."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    full = [path for path in files if HALF not in path.name]
    return full if any(".safetensors" in path.suffixes for path in full) else files


def _misfits(told: dict) -> list[str]:
    """What a loader says about tensors that it did not place; position ids are no weights, old encoders stored them."""
    wrong = [f"missing {name}" for name in told["missing_keys"]]
    wrong += [f"extra {name}" for name in told["unexpected_keys"] if not name.endswith(".position_ids")]
    return wrong + [f"{name} is {tuple(is_)}, not {tuple(should)}" for name, is_, should in told["mismatched_keys"]]


def _frozen(net):
    return net.eval().requires_grad_(False)
