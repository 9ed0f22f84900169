"""SiLU rewritten in a graph: the function stays, whoever else reads what stands before it."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilevd.device import silu

SHAPE = (2, 3)


def graph(read: str) -> onnx.ModelProto:
    """y = SiLU(x w + b), and z, the absolute value of what ``read`` names."""
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["scaled"], "norm/Mul"),
        helper.make_node("Add", ["scaled", "b"], ["h"], "norm/Add"),
        helper.make_node("Sigmoid", ["h"], ["gate"], "act/Sigmoid"),
        helper.make_node("Mul", ["h", "gate"], ["y"], "act/Mul"),
        helper.make_node("Abs", [read], ["z"], "other/Abs"),
    ]
    stored = [numpy_helper.from_array(np.full(3, value, np.float32), name) for name, value in (("w", 2.0), ("b", 0.3))]
    x, *outputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in "xyz")
    made = helper.make_graph(nodes, "g", [x], outputs, stored)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize(("read", "in_the_norm"), [("x", True), ("scaled", False), ("h", False), ("w", False)])
def test_whoever_else_reads_a_part_of_the_norm_reads_the_same(read, in_the_norm):
    model = graph(read)
    feed = {"x": np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)}
    before = ort.InferenceSession(model.SerializeToString()).run(None, feed)
    assert silu.rewrite(model.graph) == 1
    after = ort.InferenceSession(model.SerializeToString()).run(None, feed)
    for was, now in zip(before, after, strict=True):
        np.testing.assert_allclose(now, was, rtol=1e-5, atol=1e-6)
    assert (silu.HALF not in {tensor.name for tensor in model.graph.initializer}) == in_the_norm
