"""Small prepared clips, and small networks to move: a linear one, and a video network of SVD's form."""

import pytest
import tiny_svd
import torch
from safetensors.torch import save_file
from torch import nn

from mobilevd.svd.unet import VideoUNet

CONFIG = tiny_svd.UNET | {"num_frames": 3}


@pytest.fixture
def write_clips(tmp_path):
    """Write ``count`` random clips; the first latent of clip i is i, so that a clip can be told by its bytes."""

    def write(name: str = "train", count: int = 5, **changes):
        g = torch.Generator().manual_seed(count)
        tensors = {
            "latents": torch.randn(count, 3, 4, 8, 8, generator=g).half(),
            "image_latents": torch.randn(count, 4, 8, 8, generator=g).half(),
            "tokens": torch.randn(count, 1, 16, generator=g).half(),
        }
        tensors["latents"][:, 0, 0, 0, 0] = torch.arange(count)
        path = tmp_path / f"{name}.safetensors"
        save_file({k: v for k, v in {**tensors, **changes}.items() if v is not None}, path)
        return path

    return write


@pytest.fixture
def linear():
    def make(seed: int = 0) -> nn.Linear:
        network = nn.Linear(4, 4)
        g = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in network.parameters():
                p.copy_(torch.randn(p.shape, generator=g))
        return network

    return make


@pytest.fixture
def video_unet():
    def make(seed: int = 0) -> VideoUNet:
        torch.manual_seed(seed)
        return VideoUNet(**CONFIG)

    return make


class KilledError(Exception):
    """Stands for a kill in the middle of a training."""


@pytest.fixture
def killed_at(monkeypatch):
    """Make the training loop die when it records step ``k`` for the first time."""
    from mobilevd.training import loop

    def arm(k: int) -> type[Exception]:
        record, armed = loop._Loop._record, [True]

        def dying(self, step, values):
            if armed[0] and step == k:
                armed[0] = False
                raise KilledError
            record(self, step, values)

        monkeypatch.setattr(loop._Loop, "_record", dying)
        return KilledError

    return arm
