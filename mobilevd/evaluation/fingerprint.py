"""The protocol behind a score: two scores are compared only when everything that moves such a figure is the same.

**Keeps** a difference in any field is refused by its name, and the real set's features are found again by what they
were computed from (``tests/evaluation/test_fingerprint.py``). **Axes** N F C H W.
"""

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float, UInt8
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mobilevd.artifacts import seal, verify
from mobilevd.errors import IntegrityError
from mobilevd.packages import cache_dir

PREFIX = "fingerprint."  # of a record's facts
OF_FEATURES = ("real", "extractor", "frames", "width", "height", "resize", "crop", "dtype")
log = logging.getLogger(__name__)


class Fingerprint(BaseModel):
    """What a score depends on besides the model. ``real``, ``extractor``, ``sampler`` are sha256 digests.

    ``clips``: how many were generated; ``resize``, ``crop``: how pixels reach the extractor; ``seed`` is None where the
    clips were not sampled here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    real: str
    extractor: str
    sampler: str
    clips: int
    frames: int
    fps: float
    width: int
    height: int
    resize: str
    crop: str
    seed: int | None
    dtype: str

    @property
    def digest(self) -> str:
        """sha256 over all fields."""
        return digest(self.model_dump(mode="json"))

    def facts(self) -> dict[str, str]:
        """The fields as a record's facts, under ``fingerprint.``."""
        return {f"{PREFIX}{name}": json.dumps(value) for name, value in self.model_dump(mode="json").items()}


def of_facts(facts: Mapping[str, str]) -> dict[str, Any]:
    """The fields that ``facts`` wrote, checked; empty where none were written. Errors: IntegrityError."""
    told = {name.removeprefix(PREFIX): json.loads(v) for name, v in facts.items() if name.startswith(PREFIX)}
    try:
        return Fingerprint.model_validate(told).model_dump(mode="json") if told else {}
    except ValidationError as error:
        fields = ", ".join(str(item["loc"][0]) for item in error.errors())
        raise IntegrityError("A fingerprint is not whole", got=fields, allowed="every field") from None


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The names of the fields in which two fingerprints differ; a field that one of them lacks differs."""
    missing = object()
    return sorted(k for k in one.keys() | other.keys() if one.get(k, missing) != other.get(k, missing))


def require_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Errors: IntegrityError naming every field that differs, for scores that must not be compared."""
    if not one or not other:
        raise IntegrityError("A score without a fingerprint is compared with nothing", where="evaluate it again")
    if fields := differing(one, other):
        got, allowed = ("; ".join(f"{k} {side.get(k, 'missing')}" for k in fields) for side in (one, other))
        headline = f"These scores are of different protocols: {', '.join(fields)}"
        raise IntegrityError(headline, got=got, allowed=allowed, where="evaluate both under one protocol")


def digest(values: Any) -> str:
    """sha256 over canonical JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def digest_of_clips(video: UInt8[Tensor, "N F 3 H W"]) -> str:
    """sha256 over the digests of every clip's shape and bytes, in order; one clip's is its own."""
    each = [
        digest([list(clip.shape), hashlib.sha256(clip.contiguous().numpy().tobytes()).hexdigest()]) for clip in video
    ]
    return each[0] if len(each) == 1 else digest(each)


def features(
    protocol: Fingerprint, make: Callable[[], Float[Tensor, "N D"]], cache: Path | None = None
) -> Float[Tensor, "N D"]:
    """The real set's features, computed once for the fields that they depend on (default place: ``cache_dir()``).

    A cached file that was changed is computed again.
    """
    fields = protocol.model_dump(mode="json")
    folder = Path(cache or cache_dir()) / "features" / digest({name: fields[name] for name in OF_FEATURES})[:32]
    if (kept := _kept(folder)) is None:
        kept = make().contiguous()
        _keep(kept, folder)
    return kept


def _kept(folder: Path) -> Tensor | None:
    if not folder.is_dir():
        return None
    try:
        verify(folder)
    except IntegrityError:
        log.warning("%s in the cache is damaged; the real set's features are computed again", folder.name)
        return None
    return load_file(folder / "features.safetensors")["features"]


def _keep(values: Tensor, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        aside = Path(scratch) / folder.name
        aside.mkdir()
        save_file({"features": values}, aside / "features.safetensors")
        seal(aside)
        if folder.is_dir():
            folder.rename(Path(scratch) / "old")
        aside.rename(folder)
