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
