"""Where quantization hurts: how far the quantized graph is from the float one inside each block of the network.

**Source** SQNR of the same convolution's output in both graphs, noise of everything before it included · **Keeps** a
disturbed block is the one that is named (``tests/device/test_noise.py``).
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from mobilevd.device.fidelity import sqnr_db
from mobilevd.device.session import open_session
from mobilevd.svd import kinds


def by_layer(source: Path, quantized: Path, feed: dict[str, np.ndarray]) -> dict[str, float]:
    """Convolution → SQNR in dB of its output on ``feed``; the noisiest first."""
    wanted, got = (_convolutions(path, feed) for path in (source, quantized))
    return dict(sorted(((layer, sqnr_db(wanted[layer], got[layer])) for layer in wanted), key=lambda item: item[1]))


def blocks(layers: dict[str, float]) -> dict[str, float]:
    """Of layers, the noisiest first: block → its lowest."""
    found: dict[str, float] = {}
    for layer, value in layers.items():
        found.setdefault(block(layer), value)
    return found


def block(layer: str) -> str:
    """``unet.down_blocks.0.resnets.0.conv1/Conv`` → ``down_blocks.0``; ``unet.conv_in/Conv`` → ``conv_in``."""
    return kinds.block(layer.partition("/")[0].removeprefix("unet."))


def _convolutions(path: Path, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Name → output of every convolution."""
    aside = Path(path).with_suffix(".observed.onnx")
    model = onnx.load(path, load_external_data=False)
    made = {node.output[0]: node.name for node in model.graph.node if node.op_type == "Conv"}
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in made)
    onnx.save(model, aside)
    try:
        return dict(zip(made.values(), open_session(aside).run(list(made), feed), strict=True))
    finally:
        aside.unlink()
