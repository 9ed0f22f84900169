import hashlib
import io

import pytest
import torch
from safetensors.torch import save_file

from mobilevd.training import stream


@pytest.fixture
def tensors():
    """Of all kinds: wide and narrow numbers, none, one, turned round, many names with letters beyond ASCII."""
    g = torch.Generator().manual_seed(0)
    return {
        "b.weight": torch.randn(300, 7, generator=g).t(),
        "a": torch.randn(5, generator=g).half(),
        "bf16": torch.randn(3, generator=g).bfloat16(),
        "step": torch.tensor(3.0),
        "none": torch.empty(0, 4),
        "flag": torch.tensor([True, False, True]),
        "codes": torch.arange(200, dtype=torch.uint8),
        "signed": torch.arange(4, dtype=torch.int8),
        "short": torch.arange(4, dtype=torch.int16),
        "int": torch.arange(4, dtype=torch.int32),
        "curve.steps": torch.arange(9),
        "curve.values": torch.randn(9, generator=g).double(),
        "\u03c3": torch.ones(1),
    }


@pytest.mark.parametrize("piece", [64, 1000, stream.PIECE])
def test_a_streamed_file_has_the_librarys_bytes_and_its_digest(tensors, tmp_path, monkeypatch, piece):
    monkeypatch.setattr(stream, "PIECE", piece)
    digest = stream.save(tensors, tmp_path / "own.safetensors")
    save_file({name: t.contiguous() for name, t in tensors.items()}, tmp_path / "library.safetensors")
    own = (tmp_path / "own.safetensors").read_bytes()
    assert own == (tmp_path / "library.safetensors").read_bytes()
    assert digest == hashlib.sha256(own).hexdigest()


def test_a_disk_that_takes_a_little_at_a_time_gets_it_all(tensors, tmp_path):
    class Slow(io.FileIO):
        def write(self, piece):
            return super().write(piece[:100])

    class Place(type(tmp_path)):
        def open(self, mode, buffering):
            return Slow(self, mode)

    digest = stream.save(tensors, Place(tmp_path / "own.safetensors"))
    assert hashlib.sha256((tmp_path / "own.safetensors").read_bytes()).hexdigest() == digest
