"""Half precision under a training: autocast, and what a processor is better off without.

**Keeps** weights, gradients of weights, averages and states in fp32. **Changes** on a processor attention stays in
fp32 (``tests/training/test_precision.py``): torch's kernel in half precision is the slower one backward.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def autocast(device: str, precision: str) -> Iterator[None]:
    """Inside, matrix products and convolutions run in ``precision``: fp32, bf16 or fp16."""
    if (dtype := HALF.get(precision)) is None:
        yield
    elif device == "cpu":
        with torch.autocast(device, dtype), AttentionInFull():
            yield
    else:
        with torch.autocast(device, dtype):
            yield


class AttentionInFull(TorchFunctionMode):
    """Inside, attention is computed in fp32 and put out as autocast would have it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """What torch asks instead of every function that is called inside."""
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        dtype = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            full = (a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)
            return func(*full, **(kwargs or {})).to(dtype)


def warning(device: str, precision: str) -> str | None:
    """What to tell a user whose processor has no arithmetic of that precision, and computes it the long way round."""
    if device != "cpu" or precision not in HALF or has(precision):
        return None
    return f"training.precision {precision}: this processor has no such arithmetic and is faster in fp32"


def has(precision: str) -> bool:
    """Whether this processor has arithmetic in ``precision``: bf16 or fp16."""
    return any(there and precision in name for name, there in torch.cpu.get_capabilities().items())
