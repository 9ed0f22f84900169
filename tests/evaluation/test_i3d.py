"""I3D: the original's logits, the published distance, TensorFlow's padding and resize, and weights that are no code."""

import io
import json
import math
import pickle
import tarfile
from pathlib import Path

import make_i3d_reference as reference
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from mobilevd.artifacts import seal
from mobilevd.errors import DataError, IntegrityError, MobileVDError
from mobilevd.evaluation import i3d, pinned
from mobilevd.evaluation.fvd import frechet

EXPECTED = json.loads(Path(__file__).with_name("i3d_reference.json").read_text(encoding="utf-8"))["logits"]


@pytest.fixture(scope="module")
def net() -> i3d.I3D:
    return i3d.load()


def clips(n: int = 1, frames: int = 9, height: int = 40, width: int = 64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, frames, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("name", ["noise", "waves"])
def test_logits_equal_the_original_forward(net, name):
    x = torch.from_numpy(reference.INPUTS[name]()).permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(net(x)[0], torch.tensor(EXPECTED[name]), atol=1e-4, rtol=0)


def test_zeros_against_ones_have_the_published_distance(net):
    """FVD 151.256 for [8, 30, 3, 64, 64] of zeros and ones with StyleGAN-V's code; equal clips, so one is computed."""
    zeros = torch.zeros(1, 30, 3, 64, 64, dtype=torch.uint8)
    sets = [i3d.features(v, net, "stylegan-v").expand(8, -1) for v in (zeros, zeros + 255)]
    assert frechet(*sets) == pytest.approx(151.256, abs=1.0)


def test_features_do_not_depend_on_the_batch_size_and_keep_the_order(net):
    video = clips(n=3)
    pair_then_one = i3d.features(video, net, batch_size=2)
    assert pair_then_one.dtype == torch.float64
    assert pair_then_one.shape == (3, 400)
    for i in (0, 2):
        torch.testing.assert_close(i3d.features(video[i : i + 1], net)[0], pair_then_one[i], atol=1e-4, rtol=0)
    assert (pair_then_one[0] - pair_then_one[2]).abs().max() > 0.01


def test_preprocessings_differ_and_keep_the_range():
    video = clips(frames=9)
    made = {name: i3d.preprocess(video, name) for name in ("tf-reference", "stylegan-v", "sf-v")}
    for x in made.values():
        assert x.shape == (1, 3, 9, 224, 224)
        assert -1 <= x.min() < -0.5
        assert 0.5 < x.max() <= 1
    assert not torch.allclose(made["tf-reference"], made["sf-v"], atol=0.05)
    assert not torch.allclose(made["tf-reference"], made["stylegan-v"], atol=0.05)


def test_resize_reads_as_tensorflow_1_does():
    x = torch.rand(1, 1, 5, 300, generator=torch.Generator().manual_seed(0))
    y = i3d.resize_tf1(x, 224)
    for i, j in ((0, 0), (1, 7), (100, 150), (223, 223)):
        u, v = i * 5 / 224, j * 300 / 224
        (a, b), (s, t) = (int(u), int(v)), (u - int(u), v - int(v))
        c, d = min(a + 1, 4), min(b + 1, 299)
        top = x[0, 0, a, b] * (1 - t) + x[0, 0, a, d] * t
        bottom = x[0, 0, c, b] * (1 - t) + x[0, 0, c, d] * t
        assert y[0, 0, i, j].item() == pytest.approx((top * (1 - s) + bottom * s).item(), abs=1e-6)


def test_short_side_then_crop_keeps_the_centre():
    video = torch.zeros(1, 9, 3, 64, 128, dtype=torch.uint8)
    video[..., 32:96] = 255  # the middle square
    x = i3d.preprocess(video, "stylegan-v")
    assert x[..., 8:-8].min() > 0.999
    assert i3d.preprocess(video, "tf-reference").min() < -0.999


@pytest.mark.parametrize("n", [4, 5, 7, 14])
@pytest.mark.parametrize(("kernel", "stride"), [((1, 3), (1, 2)), ((3, 3), (2, 2)), ((2, 2), (2, 2)), ((3, 3), (1, 1))])
def test_pooling_equals_tensorflows_same_padding(n, kernel, stride):
    x = torch.rand(2, 3, n, n + 1, n, generator=torch.Generator().manual_seed(0))
    size, step = (kernel[0], kernel[1], kernel[1]), (stride[0], stride[1], stride[1])
    pads = []
    for length, k, s in zip(reversed(x.shape[2:]), reversed(size), reversed(step), strict=True):
        total = max((math.ceil(length / s) - 1) * s + k - length, 0)
        pads += [total // 2, total - total // 2]
    expected = F.max_pool3d(F.pad(x, pads, value=-math.inf), size, step)
    assert torch.equal(i3d.max_pool(x, kernel, stride), expected)


def test_folded_convolution_equals_convolution_then_batch_norm():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 3, 4, 6)).astype(np.float32)
    bias, mean = (rng.normal(size=6).astype(np.float32) for _ in range(2))
    var = rng.uniform(1e-3, 2, size=(1, 1, 1, 1, 6)).astype(np.float32)
    unit = {"Conv_0": {"kernel": kernel}, "BatchNorm_0": {"bias": bias}}
    stats = {"BatchNorm_0": {"mean": mean.reshape(1, 1, 1, 1, 6), "var": var}}
    folded = i3d.fold({"params": {"Conv3d_2c_3x3": unit}, "batch_stats": {"Conv3d_2c_3x3": stats}})
    x = torch.randn(1, 4, 5, 5, 5, generator=torch.Generator().manual_seed(0))
    y = F.conv3d(x, torch.from_numpy(kernel).permute(4, 3, 0, 1, 2))
    y = (y - torch.from_numpy(mean).view(-1, 1, 1, 1)) / torch.sqrt(torch.from_numpy(var).view(-1, 1, 1, 1) + 1e-3)
    y = y + torch.from_numpy(bias).view(-1, 1, 1, 1)
    assert set(folded) == {"conv_2c.weight", "conv_2c.bias"}
    torch.testing.assert_close(F.conv3d(x, folded["conv_2c.weight"], folded["conv_2c.bias"]), y, atol=1e-3, rtol=1e-4)


class Evil:
    def __init__(self, target, *args):
        self.target, self.args = target, args

    def __reduce__(self):
        return self.target, self.args


@pytest.mark.parametrize("evil", [Evil(print, "run"), Evil(eval, "1"), Evil(np.load, "x"), Evil(getattr, 1, "real")])
def test_a_pickle_that_asks_for_code_is_refused(evil, capsys):
    with pytest.raises(IntegrityError, match="asks for code"):
        pinned.read_checkpoint(pickle.dumps({"params": evil}, protocol=4))
    assert capsys.readouterr().out == ""


def test_a_pickle_of_arrays_is_read():
    arrays = {"a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3)}}
    assert np.array_equal(pinned.read_checkpoint(pickle.dumps(arrays, protocol=4))["a"]["b"], arrays["a"]["b"])


def test_another_checkpoint_in_the_archive_is_refused(tmp_path):
    archive = tmp_path / "x.tar.gz"
    for member, message in ((i3d.CHECKPOINT.member, "not the pinned one"), ("elsewhere.ckpt", "lacks the checkpoint")):
        with tarfile.open(archive, "w:gz") as tar:
            info = tarfile.TarInfo(member)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
        with pytest.raises(IntegrityError, match=message):
            pinned.convert(i3d.CHECKPOINT, archive, i3d.fold, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_cache_is_refused_at_load(net, tmp_path):
    folder = tmp_path / i3d.CHECKPOINT.folder
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / i3d.CHECKPOINT.file)
    seal(folder)
    i3d.load(cache=tmp_path)
    data = bytearray((folder / i3d.CHECKPOINT.file).read_bytes())
    data[-1] ^= 1
    (folder / i3d.CHECKPOINT.file).write_bytes(data)
    with pytest.raises(IntegrityError, match="changed"):
        i3d.load(cache=tmp_path)


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (clips(frames=8), "8 frames"),
        (clips()[:, :, :1], r"uint8 \[1, 9, 1,"),
        (clips()[:0], "at least 1"),
    ],
)
def test_clips_that_i3d_cannot_read_are_refused(video, message, unchecked):
    with pytest.raises(DataError, match=message):
        unchecked(video, None, "tf-reference")


def test_an_unknown_preprocessing_is_refused(unchecked):
    with pytest.raises(MobileVDError, match=r"tf-reference, stylegan-v, sf-v"):
        unchecked(clips(), None, "bicubic")


@pytest.fixture
def unchecked():
    """``features`` without the shape checker, as users run it."""
    return getattr(i3d.features, "__wrapped__", i3d.features)
