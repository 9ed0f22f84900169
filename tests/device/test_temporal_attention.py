"""Against the attention it was made of, and in the graph that leaves for the NPU."""

import onnx
import pytest
import torch

from mobilevd.device.temporal_attention import TemporalAttention
from mobilevd.errors import SurgeryError
from mobilevd.svd.unet import Attention


@pytest.fixture
def attention():
    torch.manual_seed(5)
    return Attention(query_dim=48, heads=3, dim_head=16).requires_grad_(False)


def test_it_is_the_attention_of_every_position_along_its_frames(attention):
    x = 3 * torch.randn(7, 20, 48)
    wanted = attention(x.transpose(0, 1)).transpose(0, 1)
    torch.testing.assert_close(TemporalAttention(attention)(x), wanted, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(wanted, attention(x), atol=1e-2)  # along positions is something else


def test_it_shares_the_weights(attention):
    assert {p.data_ptr() for p in TemporalAttention(attention).parameters()} == {
        p.data_ptr() for p in attention.parameters()
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [("norm_q", torch.nn.LayerNorm(16)), ("residual_connection", True), ("rescale_output_factor", 2.0)],
)
def test_an_attention_that_does_more_is_refused(name, value, attention):
    setattr(attention, name, value)
    with pytest.raises(SurgeryError, match="no form for phones") as error:
        TemporalAttention(attention)
    assert name in error.value.got


def test_the_npu_is_given_no_product_of_small_matrices_at_every_position(graphs):
    """A product of two computed tensors has a matrix per position: minutes of compilation at SVD's size."""
    graph = onnx.load(graphs.float_path).graph
    weights = {tensor.name for tensor in graph.initializer}
    along_time = [
        node
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm") and "temporal_transformer_blocks" in node.name and "attn1" in node.name
    ]
    assert len(along_time) > 4
    assert not [node.name for node in along_time if not weights & set(node.input)]
