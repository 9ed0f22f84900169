"""Tensors are told by dtype, shape and digest of the stored bytes; whatever differs is named, eight at most."""

import hashlib
import struct

import pytest
import torch
from safetensors.torch import save_file

from mobilevd.errors import IntegrityError
from mobilevd.svd import weights

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES)
def test_digest_is_of_the_bytes_that_the_file_holds(tmp_path, dtype):
    tensors = {"scalar": torch.tensor(1).to(dtype), "turned": torch.arange(6).reshape(2, 3).T.to(dtype)}
    path = tmp_path / "w.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    told = weights.describe(tensors)
    assert told["turned"]["shape"] == [3, 2]
    assert told["turned"]["dtype"] == str(dtype).removeprefix("torch.")
    data = path.read_bytes()
    size = tensors["turned"].nbytes
    pieces = [data[i : i + size] for i in range(len(data) - size + 1)]
    assert told["turned"]["sha256"] in {hashlib.sha256(piece).hexdigest() for piece in pieces}
    assert weights.describe(weights.read(path)) == told


def test_description_is_for_json_and_blind_to_nothing_but_the_name():
    one, other = torch.zeros(4), torch.zeros(4)
    assert weights.describe({"a": one})["a"] == weights.describe({"b": other})["b"]
    for changed in (torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32), torch.tensor([0.0, 0, 0, -0.0])):
        assert weights.describe({"a": changed})["a"] != weights.describe({"a": one})["a"]


def test_eight_differences_are_shown_and_the_rest_counted(tmp_path):
    described = weights.describe({f"t{i}": torch.tensor(float(i)) for i in range(12)})
    with pytest.raises(IntegrityError) as caught:
        weights.check_digests({f"t{i}": torch.tensor(i + 0.5) for i in range(12)}, described, tmp_path)
    assert caught.value.got.count("holds other bytes") == 8
    assert caught.value.got.endswith("; and 4 more")


def test_tensors_too_many_and_too_few_are_told_apart(tmp_path):
    described = weights.describe({"a": torch.zeros(1), "b": torch.ones(1)})
    with pytest.raises(IntegrityError, match="b is gone; c was not among them"):
        weights.check_digests({"a": torch.zeros(1), "c": torch.ones(1)}, described, tmp_path)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "header is cut off"),
        (struct.pack("<Q", 1 << 62) + b"{}", "header is cut off"),
        (struct.pack("<Q", 4) + b"[{]}", "header is damaged"),
        (struct.pack("<Q", 2) + b"[]", "header is damaged"),
        (struct.pack("<Q", 2) + b"{}" + b"trailing", "no tensor can be told"),
    ],
)
def test_file_that_is_no_safetensors_file_is_refused(tmp_path, data, told):
    (tmp_path / "w.safetensors").write_bytes(data)
    with pytest.raises(IntegrityError, match=told):
        weights.read(tmp_path / "w.safetensors")
