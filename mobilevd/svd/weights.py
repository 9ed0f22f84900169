"""Tensors of a safetensors file, each told by name, dtype, shape and digest; one that does not fit is named.

**Keeps** a damaged, cut off, swapped or foreign tensor is refused by its name (``tests/svd/test_weights.py``).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from mobilevd.errors import IntegrityError

SHOWN = 8
BELONGS_TO = "belongs_to"

Described = dict[str, dict[str, str | list[int]]]  # name → dtype, shape and sha256 of the bytes as stored


def describe(tensors: Mapping[str, Tensor]) -> Described:
    """What ``tensors`` are, to be written beside them: nothing is converted, the bytes are hashed as they are."""
    return {name: _described(tensor) for name, tensor in tensors.items()}


def read(path: Path) -> dict[str, Tensor]:
    """Every tensor of the file, as stored. Errors: as ``check_whole``."""
    check_whole(path)
    return load_file(path)


def check_whole(path: Path) -> None:
    """Errors: IntegrityError for a file that is missing, is no safetensors file, or ends within a tensor, by name."""
    if not path.is_file():
        raise IntegrityError("The network's weights are missing", got=str(path), allowed="a safetensors file")
    try:
        with safe_open(path, framework="pt"):
            pass
    except SafetensorError as error:
        raise IntegrityError(
            "The weights cannot be read",
            got=f"{_first_cut(path) or 'no tensor can be told'} ({error})",
            allowed="a whole safetensors file",
            where=str(path),
        ) from None


def header(path: Path) -> dict[str, str]:
    """What a whole safetensors file says of itself, besides its tensors and that they are PyTorch's."""
    with safe_open(path, framework="pt") as opened:
        return json.loads((opened.metadata() or {}).get(BELONGS_TO, "{}"))


def one_entry(told: Mapping[str, str]) -> dict[str, str]:
    """``told`` as a header that ``header`` reads: one entry, for several are written in an order that changes."""
    return {BELONGS_TO: json.dumps(dict(told), sort_keys=True)}


def description(told: object, path: Path) -> Described:
    """``told`` as read from ``path``. Errors: IntegrityError when it is not what ``describe`` made."""
    if isinstance(told, dict) and all(isinstance(t, dict) and isinstance(t.get("sha256"), str) for t in told.values()):
        return told
    raise IntegrityError("The tensors are not described", got=str(path), allowed="name → dtype, shape and sha256")


def check_shapes(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Errors: IntegrityError for a tensor that is missing, extra or misshapen, by name."""
    wrong = [f"missing {name}" for name in expected.keys() - found.keys()]
    wrong += [f"extra {name}" for name in found.keys() - expected.keys()]
    shapes = {name: (tuple(found[name].shape), tuple(expected[name].shape)) for name in expected.keys() & found.keys()}
    wrong += [f"{name} is {is_}, not {should}" for name, (is_, should) in shapes.items() if is_ != should]
    refuse("The weights do not fit the configuration and its edits", wrong, path)


def check_digests(found: Mapping[str, Tensor], described: Described, path: Path) -> None:
    """Errors: IntegrityError for a tensor whose bytes, dtype or shape are not the ones described, by name."""
    now = describe(found)
    owner = {told.get("sha256"): name for name, told in described.items()}
    names = sorted(name for name in now.keys() | described.keys() if now.get(name) != described.get(name))
    refuse("The weights are not the ones that were saved", [_difference(n, now, described, owner) for n in names], path)


def refuse(what: str, wrong: Iterable[str], path: Path) -> None:
    """Raise IntegrityError that shows the first tensors in ``wrong``; nothing when there is none."""
    wrong = sorted(wrong)
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise IntegrityError(
            what, got="; ".join(wrong[:SHOWN]) + more, allowed="every tensor as it was saved", where=str(path)
        )


def _described(tensor: Tensor) -> dict[str, str | list[int]]:
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _difference(name: str, now: Described, described: Described, owner: dict[str, str]) -> str:
    if name not in described:
        return f"{name} was not among them"
    if name not in now:
        return f"{name} is gone"
    for key in ("dtype", "shape"):
        if now[name][key] != described[name].get(key):
            return f"{name} has {key} {now[name][key]}, not {described[name].get(key)}"
    other = owner.get(now[name]["sha256"])
    return f"{name} holds the bytes of {other}" if other else f"{name} holds other bytes"


def _first_cut(path: Path) -> str:
    """The first tensor that the header places beyond the end of the file, or that the header itself does not reach."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
        if start > size:
            return "its header is cut off"
        try:
            header = json.loads(stream.read(start - 8))
            ends = {name: start + told["data_offsets"][1] for name, told in header.items() if name != "__metadata__"}
        except (ValueError, KeyError, TypeError, AttributeError):
            return "its header is damaged"
    cut = sorted((end, name) for name, end in ends.items() if end > size)
    return f"{cut[0][1]} is cut off, and {len(cut) - 1} tensors after it" if cut else ""
