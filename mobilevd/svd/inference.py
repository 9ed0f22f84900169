"""A network arranged for sampling on a processor: the same values up to rounding, sooner.

**Changes** feed-forward layers run frame by frame, so that their wide middles stay in the cache; convolutions over time
run as convolutions over (time, position), which have a faster kernel. **Keeps** the network's output
(``tests/svd/test_inference.py``). **Axes** B C F H W.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mobilevd.svd.unet import VideoUNet


def device_for(share: int) -> torch.device:
    """What the ``share``-th of several processes samples on: the GPUs in turn, or the CPU where there is none."""
    gpus = torch.cuda.device_count()
    return torch.device("cuda", share % gpus) if gpus else torch.device("cpu")


def arrange(unet: VideoUNet) -> VideoUNet:
    """Arrange the network in place, for inference alone, and return it in evaluation mode."""
    unet.enable_forward_chunking()
    return over_time(unet).eval()


def over_time(network: nn.Module) -> nn.Module:
    """Let the network's convolutions over time run over (time, position), in place; returns it."""
    for module in network.modules():
        if type(module) is nn.Conv3d and module.kernel_size[1:] == (1, 1) and module.stride == (1, 1, 1):
            module.__class__ = OverTime
    return network


class OverTime(nn.Conv3d):
    """A convolution of k x 1 x 1 over frames, height and width taken as one axis."""

    def forward(self, x: Float[Tensor, "B C F H W"]) -> Float[Tensor, "B D F H W"]:
        y = F.conv2d(x.flatten(3), self.weight.squeeze(-1), self.bias, padding=(self.padding[0], 0))
        return y.unflatten(3, x.shape[3:])
