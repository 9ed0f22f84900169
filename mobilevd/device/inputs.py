"""One description of the graph's inputs and outputs: it serves trace, calibration, profile and random tests alike.

**Keeps** a feed of another name, shape or type never reaches a runtime (``tests/device/test_inputs.py``).
**Axes** one clip: noise [F C H W], image latents [1 C H W], token [1 1 D], ids [1 3] → latents [F C H W].
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from mobilevd.artifacts import write_json
from mobilevd.errors import IntegrityError, MobileVDError

if TYPE_CHECKING:
    import numpy as np
    import torch

    Feed = Mapping[str, np.ndarray]

SPEC_FILE = "inputs.json"


class InputSpec(BaseModel):
    """One tensor at the graph's border: name, static shape, type."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    shape: tuple[int, ...]
    dtype: Literal["float32"] = "float32"

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{' '.join(str(size) for size in self.shape)}]"


class GraphSpec(BaseModel):
    """All tensors at a graph's border, in the order of the network's ``forward``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    inputs: tuple[InputSpec, ...]
    outputs: tuple[InputSpec, ...]

    @property
    def names(self) -> list[str]:
        """The inputs' names, in order."""
        return [spec.name for spec in self.inputs]

    def random(self, generator: "torch.Generator") -> "dict[str, np.ndarray]":
        """Unit normal values for every input."""
        import torch

        return {spec.name: torch.randn(spec.shape, generator=generator).numpy() for spec in self.inputs}

    def check(self, feed: "Feed") -> None:
        """Errors: MobileVDError when ``feed`` is not one array of the right shape and type for every input."""
        wanted = {spec.name: str(spec) for spec in self.inputs}
        given = {name: str(_spec_of(name, array)) for name, array in feed.items()}
        if wrong := sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name)):
            raise MobileVDError(
                "The graph was fed something else than its inputs",
                got="; ".join(given.get(name, f"no {name}") for name in wrong),
                allowed="; ".join(wanted.values()),
            )

    def save(self, folder: Path) -> None:
        """Write ``inputs.json`` into ``folder``."""
        write_json(Path(folder) / SPEC_FILE, self.model_dump(mode="json"))


def one_step(frames: int, channels: int, height: int, width: int, token_dim: int) -> GraphSpec:
    """The border of the one-step network for one clip of latents F C H W and an image token of ``token_dim``."""
    latents = (frames, channels, height, width)
    return GraphSpec(
        inputs=(
            InputSpec(name="noise", shape=latents),
            InputSpec(name="image_latents", shape=(1, channels, height, width)),
            InputSpec(name="token", shape=(1, 1, token_dim)),
            InputSpec(name="ids", shape=(1, 3)),
        ),
        outputs=(InputSpec(name="latents", shape=latents),),
    )


def load(folder: Path) -> GraphSpec:
    """Read ``inputs.json`` of ``folder``. Errors: IntegrityError when it is missing."""
    path = Path(folder) / SPEC_FILE
    if not path.is_file():
        raise IntegrityError("The graph's inputs are not described", got=str(path), allowed=f"a {SPEC_FILE} beside it")
    return GraphSpec.model_validate(json.loads(path.read_text(encoding="utf-8")))


def _spec_of(name: str, array: "np.ndarray") -> str:
    return f"{name} {array.dtype} [{' '.join(str(size) for size in array.shape)}]"
