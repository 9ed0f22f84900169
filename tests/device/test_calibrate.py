import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilevd.device import calibrate
from mobilevd.errors import EffectError

W = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


@pytest.fixture
def graph(tmp_path):
    """x [2 4] → log(relu(x W) + 1)."""
    one = numpy_helper.from_array(np.float32(1.0), "one")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Relu", ["product"], ["positive"]),
        helper.make_node("Add", ["positive", "one"], ["more"]),
        helper.make_node("Log", ["more"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [2, 4]), ("y", [2, 3])))
    made = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(W, "w"), one])
    path = tmp_path / "g.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def feeds(count):
    return [{"x": np.random.default_rng(i).normal(size=(2, 4)).astype(np.float32)} for i in range(count)]


def test_ranges_are_what_numpy_finds_over_all_clips(graph):
    found = calibrate.ranges(graph, feeds(3))
    x = np.stack([feed["x"] for feed in feeds(3)])
    product = x @ W
    wanted = {"x": x, "product": product, "positive": product.clip(0), "y": np.log(product.clip(0) + 1)}
    assert found.keys() == {"x", "product", "positive", "more", "y"}
    for name, values in wanted.items():
        assert found[name] == pytest.approx((values.min(), values.max()), rel=1e-4, abs=1e-6), name


def test_nothing_is_left_beside_the_graph_and_the_graph_is_untouched(graph):
    before = graph.read_bytes()
    calibrate.ranges(graph, feeds(1))
    assert [path.name for path in graph.parent.iterdir()] == ["g.onnx"]
    assert graph.read_bytes() == before
    assert len(ort.InferenceSession(str(graph)).get_outputs()) == 1


def test_a_tensor_that_is_not_finite_is_named(graph):
    with pytest.raises(EffectError, match="not finite") as error:
        calibrate.ranges(graph, [{"x": np.full((2, 4), np.inf, np.float32)}])
    assert "x:" in str(error.value)


def test_calibrating_on_nothing_is_an_error(graph):
    with pytest.raises(EffectError, match="no clips"):
        calibrate.ranges(graph, [])


def test_clips_are_looked_at_until_two_in_a_row_add_nothing(graph):
    wide, *others = (feed["x"] for feed in feeds(10))
    inside = [{"x": 0.5 * wide}, *({"x": 0.1 * other} for other in others)]
    seen = calibrate.observe(graph, [{"x": wide}, *inside], tolerance=0.01)
    assert (seen.clips, seen.widened) == (3, (0.0, 0.0))
    assert seen.ranges == calibrate.ranges(graph, [{"x": wide}])
    assert calibrate.observe(graph, [{"x": wide}, *inside]).clips == 11


def test_one_clip_like_the_one_before_ends_nothing(graph):
    first, second, third = (feed["x"] for feed in feeds(3))
    seen = calibrate.observe(graph, [{"x": k * x} for k, x in ((1, first), (1, first), (2, second), (4, third))], 0.01)
    assert seen.clips == 4


def test_what_a_clip_adds_is_its_share_of_the_width(graph):
    x = feeds(1)[0]["x"]
    product, wider = x @ W, 2 * x @ W
    shares = [
        0.5,
        0.5,
        0.5,
        *(1 - np.ptp(f(product.clip(0))) / np.ptp(f(wider.clip(0))) for f in (lambda v: v + 1, np.log1p)),
    ]
    assert calibrate.observe(graph, [{"x": x}, {"x": 2 * x}]).widened == pytest.approx([np.mean(shares)], abs=1e-5)
