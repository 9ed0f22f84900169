"""A feature network in a file: named by its digest, checked before it is used, and equal to the network it holds."""

import onnx
import pytest
import torch
from torch import nn
from transformers import VideoMAEConfig, VideoMAEModel

from mobilevd.artifacts import file_sha256
from mobilevd.errors import IntegrityError, MobileVDError
from mobilevd.evaluation import i3d
from mobilevd.stages import extractor

FRAMES, SIDE = 4, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class MeanToken(nn.Module):
    """VideoMAE as docs/evaluation.md wraps it: pixels in [0, 1] normalised, tokens averaged; here a tiny random one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = VideoMAEConfig(image_size=SIDE, patch_size=16, num_frames=FRAMES, tubelet_size=2, **sizes)
        self.network = VideoMAEModel(config)
        self.mean, self.std = (nn.Buffer(torch.tensor(v).view(3, 1, 1)) for v in (MEAN, STD))

    def forward(self, pixels):
        """1 F 3 H W → 1 D."""
        return self.network((pixels - self.mean) / self.std).last_hidden_state.mean(dim=1)


@pytest.fixture(scope="module")
def network() -> MeanToken:
    return MeanToken().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "videomae.onnx"
    pixels = torch.rand(1, FRAMES, 3, SIDE, SIDE)
    torch.onnx.export(network, (pixels,), path, dynamo=True, external_data=False, verbose=False)
    return path


def clip(height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (1, FRAMES, 3, height, width), dtype=torch.uint8, generator=generator)


def test_features_of_the_file_are_those_of_the_network_it_holds(network, file):
    found = extractor.of_file(file, file_sha256(file), FRAMES)
    assert (found.sha256, found.resize) == (file_sha256(file), "bilinear, antialiased, to 32x32")
    expected = network(clip().float() / 255).double()
    torch.testing.assert_close(found.features(clip()), expected, atol=1e-5, rtol=1e-5)
    assert found.features(clip(64, 96)).shape == (1, 16)


def test_file_of_another_digest_or_none_is_refused(file):
    with pytest.raises(IntegrityError, match=f"not the one named(.|\n)*{file_sha256(file)}"):
        extractor.of_file(file, "0" * 64, FRAMES)
    with pytest.raises(IntegrityError, match="no file"):
        extractor.of_file(file.with_name("other.onnx"), "0" * 64, FRAMES)


def test_network_for_other_clips_is_refused(file, tmp_path):
    with pytest.raises(MobileVDError, match=r"float32 \[1 14 3 H W\]"):
        extractor.of_file(file, file_sha256(file), 14)
    value = onnx.helper.make_tensor_value_info
    pictures, out = value("x", onnx.TensorProto.FLOAT, [1, 3, 8, 8]), value("y", onnx.TensorProto.FLOAT, [1, 3, 8, 8])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "pictures", [pictures], [out])
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "x.onnx")
    with pytest.raises(MobileVDError, match="does not read these clips"):
        extractor.of_file(tmp_path / "x.onnx", file_sha256(tmp_path / "x.onnx"), FRAMES)


def test_fvds_own_network_is_named_by_its_checkpoint():
    found = extractor.of_i3d("sf-v")
    assert (found.sha256, found.resize) == (i3d.CHECKPOINT_SHA256, "sf-v")
