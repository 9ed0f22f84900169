import numpy as np
import one_step
import onnx
import pytest
from onnx import numpy_helper

from mobilevd.device import noise

BLOCKS = {
    "add_embedding",
    "conv_in",
    "conv_out",
    "down_blocks.0",
    "down_blocks.1",
    "mid_block",
    "up_blocks.0",
    "up_blocks.1",
}


@pytest.fixture
def feed():
    return one_step.feeds(1, first_seed=50)[0]


def disturbed(path, layer, to):
    """The graph at ``path`` with a tenth of noise in one layer's weights."""
    model = onnx.load(path)
    name = next(node.input[1] for node in model.graph.node if node.name == layer)
    stored = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    w = numpy_helper.to_array(stored)
    added = np.random.default_rng(0).normal(size=w.shape).astype(np.float32) * w.std() * 0.1
    stored.CopyFrom(numpy_helper.from_array(w + added, name))
    onnx.save(model, to)


def test_every_block_of_the_network_is_named(graphs, feed):
    blocks = noise.blocks(noise.by_layer(graphs.float_path, graphs.quantized_path, feed))
    assert blocks.keys() == BLOCKS
    assert list(blocks.values()) == sorted(blocks.values())
    assert 10 < min(blocks.values()) < max(blocks.values()) < 80


def test_blocks_before_the_disturbed_one_are_untouched(graphs, feed, tmp_path):
    disturbed(graphs.float_path, "unet.mid_block.resnets.0.spatial_res_block.conv1/Conv", tmp_path / "d.onnx")
    blocks = noise.blocks(noise.by_layer(graphs.float_path, tmp_path / "d.onnx", feed))
    assert blocks["mid_block"] == pytest.approx(20, abs=3)
    assert all(blocks[name] > 100 for name in ("conv_in", "down_blocks.0", "down_blocks.1"))
    assert blocks["up_blocks.0"] < 60


def test_a_disturbed_product_of_attention_is_told_and_those_beside_it_are_not(graphs, feed, tmp_path):
    graph = onnx.load(graphs.float_path, load_external_data=False).graph
    layer = next(n.name for n in graph.node if n.op_type == "MatMul" and "mid_block" in n.name and "to_v" in n.name)
    disturbed(graphs.float_path, layer, tmp_path / "d.onnx")
    layers = noise.by_layer(graphs.float_path, tmp_path / "d.onnx", feed)
    assert layers[layer] == pytest.approx(20, abs=3)
    assert layers[layer.replace("to_v", "to_q")] > 100


def test_of_large_outputs_samples_at_every_place_along_the_last_axis_tell_as_much(graphs, feed, monkeypatch):
    whole = noise.by_layer(graphs.float_path, graphs.quantized_path, feed)
    monkeypatch.setattr(noise, "SAMPLES", 500)
    some = noise.by_layer(graphs.float_path, graphs.quantized_path, feed)
    assert all(some[layer] == pytest.approx(db, abs=3) for layer, db in whole.items())
    model = onnx.load(graphs.float_path)
    name = noise._sample(model.graph, model.graph.output[0].name, (5, 4, 8, 8))
    stored = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in model.graph.initializer}
    assert stored[f"{name}_step"] == [3]  # 1280 numbers, 500 at most: 3 of them apart, and 3 has no part in 8


def test_nothing_is_left_beside_the_graphs(graphs, feed):
    before = sorted(graphs.float_path.parent.iterdir())
    noise.by_layer(graphs.float_path, graphs.quantized_path, feed)
    assert sorted(graphs.float_path.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        ("unet.down_blocks.0.resnets.0.spatial_res_block.conv1/Conv", "down_blocks.0"),
        ("unet.mid_block.resnets.1.temporal_res_block.conv2/Conv", "mid_block"),
        ("unet.conv_in/Conv", "conv_in"),
    ],
)
def test_a_layers_block_is_the_start_of_its_name(layer, name):
    assert noise.block(layer) == name
