"""Two linear layers whose weights int8 holds with a scale per output channel, one of them with 16 bits alone."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def linear(folder, kind):
    """x → x W → ReLU → · V; one channel of W passes a large number on, one a large beside many small ones."""
    g, shape = np.random.default_rng(0), (2, 32, 64) if kind == "MatMul" else (64, 64)
    first, second = (g.normal(size=(2, 64, 64)) / 8).astype(np.float32)
    first[:, 3], first[5, 3], second[3] = 0.0, 40.0, second[3] / 1000
    first[:, 7] /= 25
    first[7, 7] = 1.0
    turned = {"transB": 1} if kind == "Gemm" else {}
    stored = [("w", first.T if turned else first), ("v", second)]
    nodes = [helper.make_node(kind, ["x", "w"], ["a"], "unet.mid_block.to_q", **turned)]
    nodes += [helper.make_node("Relu", ["a"], ["r"]), helper.make_node(kind, ["r", "v"], ["y"], "unet.conv_out.to_k")]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in "xy"]
    weights = [numpy_helper.from_array(np.ascontiguousarray(w), name) for name, w in stored]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), folder / "float.onnx")
    return folder / "float.onnx", [
        {"x": np.random.default_rng(k).normal(size=shape).astype(np.float32)} for k in (1, 2)
    ]
