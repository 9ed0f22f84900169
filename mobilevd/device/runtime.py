"""The exported one-step network as a function on tensors, for those who sample with it.

**Keeps** torch's output within the stated parity; each clip's bits depend on nothing but itself
(``tests/device/test_runtime.py``). **Axes** B F C H W.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mobilevd.device import inputs
from mobilevd.device.session import open_session
from mobilevd.shapes import AddedIds, Latents, Tokens


class OnnxOneStep:
    """``OneStep`` run by ONNX Runtime: the same four inputs, the same output, float or quantized."""

    def __init__(self, path: Path, threads: int | None = None):
        """Open ``path``; ``inputs.json`` lies beside it. Errors: IntegrityError without it."""
        self.path = Path(path)
        self.spec = inputs.load(self.path.parent)
        self._session = open_session(self.path, threads)

    def __call__(
        self, noise: Latents, image_latents: Float[Tensor, "B C H W"], token: Tokens, ids: AddedIds
    ) -> Latents:
        """Unit noise, raw first-frame latents, image token and ids of B clips → clean scaled latents; clip by clip."""
        columns = [tensor.detach().cpu().float().numpy() for tensor in (noise, image_latents, token, ids)]
        rows = zip(columns[0], *(np.split(column, len(column)) for column in columns[1:]), strict=True)
        outputs = [self.run(dict(zip(self.spec.names, row, strict=True))) for row in rows]
        return torch.from_numpy(np.stack(outputs))

    def run(self, feed: dict[str, np.ndarray]) -> np.ndarray:
        """One clip, arrays by input name. Errors: MobileVDError naming what does not fit the graph."""
        self.spec.check(feed)
        [latents] = self._session.run([self.spec.outputs[0].name], feed)
        return latents
