from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_taesd import written

from mobilevd.errors import IntegrityError
from mobilevd.svd.taesd import TinyDecoder

STORED = Path(__file__).resolve().parents[2] / ".." / "shared" / "assets" / "taesd" / "taesd_decoder.safetensors"


def test_upstreams_sequence_is_computed_tensor_by_tensor(tmp_path):
    path = written(tmp_path)
    w = {name: tensor.float() for name, tensor in load_file(path).items()}
    latents = torch.randn(2, 4, 4, 4)

    def conv(x, name):
        return torch.nn.functional.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), padding=1)

    def block(x, name):
        y = conv(x, f"{name}.conv.0").relu()
        return (conv(conv(y, f"{name}.conv.2").relu(), f"{name}.conv.4") + x).relu()

    x = conv((latents / 3).tanh() * 3, "1").relu()
    for blocks, out in (((3, 4, 5), "7"), ((8, 9, 10), "12"), ((13, 14, 15), "17")):
        for name in blocks:
            x = block(x, name)
        x = conv(x.repeat_interleave(2, -1).repeat_interleave(2, -2), out)
    expected = conv(block(x, "18"), "19").clamp(0, 1)
    got = TinyDecoder(path)(latents)
    assert got.shape == (2, 3, 32, 32)
    assert torch.allclose(got, expected, atol=1e-5)


def test_a_tensor_that_is_missing_is_named(tmp_path):
    path = written(tmp_path, **{"12.weight": None})
    with pytest.raises(IntegrityError, match=r"missing layers\.11\.weight"):
        TinyDecoder(path)


@pytest.mark.skipif(not STORED.is_file(), reason="TAESD's weights are not at hand")
def test_the_published_weights_are_placed():
    frames = TinyDecoder(STORED)(torch.zeros(1, 4, 8, 8))
    assert 0.2 < float(frames.mean()) < 0.8
