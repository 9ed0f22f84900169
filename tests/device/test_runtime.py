import one_step
import pytest
import torch

from mobilevd.device.runtime import OnnxOneStep
from mobilevd.errors import IntegrityError, MobileVDError


@pytest.fixture(scope="module")
def net(graphs):
    return OnnxOneStep(graphs.float_path, threads=1)


def batch(count):
    feeds = one_step.feeds(count, first_seed=70)
    noise, *told = ([torch.from_numpy(feed[name]) for feed in feeds] for name in one_step.SPEC.names)
    return [torch.stack(noise), *map(torch.cat, told)]


def test_the_graph_answers_like_the_network_for_a_batch(graphs, net):
    given = batch(2)
    torch.testing.assert_close(net(*given), graphs.network(*given), rtol=1e-4, atol=1e-4)


def test_a_clips_bits_depend_on_nothing_but_itself(net):
    given = batch(3)
    alone = net(*(tensor[1:2] for tensor in given))
    assert torch.equal(net(*given)[1:2], alone)


def test_the_quantized_graph_gives_the_same_bits_on_every_run(graphs):
    given = batch(1)
    first, second = (OnnxOneStep(graphs.quantized_path, threads=threads)(*given) for threads in (1, 1))
    assert torch.equal(first, second)
    assert first.shape == given[0].shape


def test_another_clip_size_than_the_graphs_is_refused(net):
    noise, *condition = batch(1)
    with pytest.raises(MobileVDError, match="noise float32"):
        net(noise[:, :3], *condition)


def test_a_graph_without_its_description_is_refused(graphs, tmp_path):
    (tmp_path / "float.onnx").write_bytes(graphs.float_path.read_bytes())
    with pytest.raises(IntegrityError, match=r"inputs\.json"):
        OnnxOneStep(tmp_path / "float.onnx")
