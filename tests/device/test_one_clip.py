import one_step
import onnx
import pytest
import torch

from mobilevd.device.fidelity import sqnr_db
from mobilevd.device.one_clip import OneClip, unbatched
from mobilevd.device.rank4 import over_time
from mobilevd.errors import SurgeryError
from mobilevd.method import cross_attention, spatial_multiscale, still_start, temporal_multiscale
from mobilevd.svd.sampler import OneStep
from mobilevd.svd.unet import VideoUNet


def network(*edits, **changes):
    torch.manual_seed(3)
    unet = VideoUNet(**(one_step.CONFIG | changes)).eval().requires_grad_(False)
    for edit in edits:
        edit(unet)
    return OneStep(unet)


def outputs(step):
    given = [torch.from_numpy(array) for array in one_step.feeds(1)[0].values()]
    return unbatched(step)(*given).numpy(), OneClip(step.unet).eval()(*given).numpy()


@pytest.mark.parametrize(
    "step",
    [
        one_step.step(),
        network(),
        network(cross_attention.apply),
        network(cross_attention.apply, lambda u: temporal_multiscale.apply(u, "average")),
        network(lambda u: temporal_multiscale.apply(u, "stride"), spatial_multiscale.apply),
        network(lambda u: still_start.apply(u, 2.0, 0.6)),
    ],
    ids=["every edit", "SVD's own", "one-token attention", "mean of frames", "stride and space", "still start"],
)
def test_the_phone_form_is_the_one_step_networks_function(step):
    assert sqnr_db(*outputs(step)) > 110


def test_the_blend_is_not_lost():
    step = network()
    before = outputs(step)[1]
    for name, p in step.unet.named_parameters():
        if "mix_factor" in name:
            p.data.fill_(3.0)
    reference, got = outputs(step)
    assert sqnr_db(reference, got) > 110
    assert sqnr_db(before, got) < 40


def test_the_network_it_was_made_of_is_left_as_it_was():
    step = network()
    before = {name: p.clone() for name, p in step.unet.named_parameters()}
    OneClip(step.unet)
    assert before.keys() == dict(step.unet.named_parameters()).keys()
    assert all(torch.equal(before[name], p) for name, p in step.unet.named_parameters())


def test_weights_that_do_not_change_are_shared():
    step = network()
    shared = {id(p) for p in step.unet.parameters()} & {id(p) for p in OneClip(step.unet).parameters()}
    assert len(shared) > 0.8 * len(list(step.unet.parameters()))


def ranks(path):
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    infos = [*graph.input, *graph.value_info, *graph.output]
    return {info.name: len(info.type.tensor_type.shape.dim) for info in infos}


def test_no_tensor_of_the_graph_has_more_than_four_axes(graphs):
    assert max(ranks(graphs.float_path).values()) == 4


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 1, 3)])
def test_a_convolution_that_looks_beyond_frames_is_refused(kernel):
    with pytest.raises(SurgeryError, match="no form for phones"):
        over_time(torch.nn.Conv3d(4, 4, kernel))
