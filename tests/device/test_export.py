import shutil

import one_step
import onnx
import pytest
import torch
from torch import nn

from mobilevd.device.export import export, file_bytes, parity_db
from mobilevd.device.inputs import GraphSpec, InputSpec
from mobilevd.device.one_clip import unbatched
from mobilevd.errors import EffectError, MobileVDError

SMALL = GraphSpec(inputs=(InputSpec(name="x", shape=(1, 64)),), outputs=(InputSpec(name="y", shape=(1, 64)),))


def small_feed(seed=9):
    return SMALL.random(torch.Generator().manual_seed(seed))


def small_network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 64)).eval()


def test_the_edited_networks_graph_computes_what_torch_does(graphs):
    assert (
        parity_db(unbatched(graphs.network), graphs.float_path, one_step.SPEC, one_step.feeds(2, first_seed=50)) > 100
    )


def test_the_graph_is_static_and_holds_onnx_operators_of_the_asked_opset_only(graphs):
    model = onnx.load(graphs.float_path)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    assert shapes == {spec.name: list(spec.shape) for spec in one_step.SPEC.inputs}


def test_every_node_says_which_module_it_came_from(graphs):
    convs = [node.name for node in onnx.load(graphs.float_path).graph.node if node.op_type == "Conv"]
    assert "unet.conv_in/Conv" in convs
    assert "unet.down_blocks.0.resnets.0.spatial_res_block.conv1/Conv" in convs


def test_no_stored_tensors_name_with_a_digit_added_is_anothers(graphs):
    """Quantizers name copies of a shared constant so."""
    names = {tensor.name for tensor in onnx.load(graphs.float_path).graph.initializer}
    assert not {f"{name}{digit}" for name in names for digit in range(1, 200)} & names


def test_the_noise_level_is_folded(graphs):
    """No timestep is left to compute: the only sines and cosines are those of the ids."""
    kinds = [node.op_type for node in onnx.load(graphs.float_path).graph.node]
    assert (kinds.count("Sin"), kinds.count("Cos")) == (1, 1)


def test_another_network_than_the_exported_one_fails_parity(graphs):
    with pytest.raises(EffectError, match="does not compute what torch does"):
        parity_db(unbatched(one_step.step(seed=1)), graphs.float_path, one_step.SPEC, one_step.feeds(1))


def test_large_weights_go_to_a_file_beside_the_graph_and_stay_the_same(tmp_path):
    network = small_network()
    export(network, SMALL, tmp_path / "inside" / "g.onnx", 18)
    export(network, SMALL, tmp_path / "beside" / "g.onnx", 18, external_above=1000)
    assert sorted(p.name for p in (tmp_path / "beside").iterdir()) == ["g.onnx", "g.onnx.data"]
    assert sorted(p.name for p in (tmp_path / "inside").iterdir()) == ["g.onnx"]
    assert (tmp_path / "beside" / "g.onnx").stat().st_size < 10_000
    weights = sum(4 * p.numel() for p in network.parameters())
    assert all(weights < file_bytes(tmp_path / where / "g.onnx") < 1.2 * weights for where in ("inside", "beside"))
    shutil.copytree(tmp_path / "beside", tmp_path / "moved")
    assert parity_db(network, tmp_path / "moved" / "g.onnx", SMALL, [small_feed()]) > 100


@pytest.mark.parametrize("opset", [17, 21])
def test_an_opset_that_phones_or_the_exporter_cannot_use_is_refused(tmp_path, opset):
    with pytest.raises(MobileVDError, match=f"got: +{opset}") as error:
        export(small_network(), SMALL, tmp_path / "g.onnx", opset)
    assert "18, 19, 20" in str(error.value)
