"""A random network of SVD's form, small enough for float64 exactness tests, and inputs for it."""

import pytest
import tiny_svd
import torch

from mobilevd.svd.unet import VideoUNet

CONFIG = tiny_svd.UNET | {"block_out_channels": (32, 32, 64, 64), "num_attention_heads": (2, 2, 4, 4), "num_frames": 4}


@pytest.fixture
def build():
    def make(dtype: torch.dtype = torch.float64, seed: int = 0) -> VideoUNet:
        torch.manual_seed(seed)
        return VideoUNet(**CONFIG).to(dtype)

    return make


@pytest.fixture
def inputs():
    def make(batch: int = 2, frames: int = 4, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(1)
        random = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
        ids = torch.tensor([[6.0, 127.0, 0.02]], dtype=dtype).repeat(batch, 1)
        return random(batch, frames, 8, 16, 8), random(batch), random(batch, 1, 16), ids

    return make


@pytest.fixture
def relative():
    def error(a: torch.Tensor, b: torch.Tensor) -> float:
        return ((a - b).norm() / b.norm()).item()

    return error
