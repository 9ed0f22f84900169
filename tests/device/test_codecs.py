import onnx
import pytest
import tiny_svd
import torch

from mobilevd.device import codecs
from mobilevd.device.export import export, parity_db
from mobilevd.device.fidelity import sqnr_db
from mobilevd.svd.autoencoder import decode, encode
from mobilevd.svd.conditioning import image_tokens, resizing

LATENTS = (5, 4, 16, 24)
PATCHED = {"in_channels": 12, "out_channels": 12, "block_out_channels": (32, 32)}
KINDS = {"down_block_types": ("DownEncoderBlock2D",) * 2, "layers_per_block": 2}  # two: with the middle's attention


def base(patched=True):
    return tiny_svd.vae(**(PATCHED | KINDS if patched else {})), tiny_svd.tower()


def reference(name, vae, tower):
    return {
        "decoder": lambda latents: decode(vae, latents[None])[0],
        "frame_encoder": lambda image: encode(vae, image),
        "image_encoder": lambda image: image_tokens(tower, image),
    }[name]


@pytest.mark.parametrize("name", ["decoder", "frame_encoder", "image_encoder"])
def test_the_graph_around_the_one_step_computes_what_the_base_does_in_rank_four(name, tmp_path):
    parts = base()
    network, spec = codecs.around(*parts, LATENTS)[name]
    export(network, spec, tmp_path / "g.onnx", 18)
    feed = spec.random(torch.Generator().manual_seed(0))
    if name != "decoder":
        feed["image"] = feed["image"].clip(0, 1)
    assert parity_db(reference(name, *parts), tmp_path / "g.onnx", spec, [feed]) > 100
    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "g.onnx")).graph
    assert max(len(info.type.tensor_type.shape.dim) for info in graph.value_info) == 4


@torch.no_grad()
def test_svds_own_layout_is_computed_too():
    parts = base(patched=False)
    for name, (network, spec) in codecs.around(*parts, LATENTS).items():
        given = torch.rand(spec.inputs[0].shape, generator=torch.Generator().manual_seed(0))
        assert sqnr_db(reference(name, *parts)(given).numpy(), network.eval()(given).numpy()) > 100


def test_the_resize_is_two_matrices_whose_rows_add_up_to_one():
    rows, columns = resizing(40, 64, 16)
    assert (rows.shape, columns.shape) == ((16, 40), (16, 64))
    assert torch.allclose(rows.sum(1), torch.ones(16), atol=1e-5)
