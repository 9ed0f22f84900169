"""What each temporal block costs: the FLOPs that one evaluation loses when the block's temporal half is removed.

**Source** MobileVD (arXiv 2412.07583) Table 1: FLOPs as in ``cost.py``. **Keeps** the costs of all blocks and of the
network without any add up to the whole (``tests/evaluation/test_block_costs.py``).
"""

import copy
from collections.abc import Sequence

from torch import nn

from mobilevd.evaluation import cost
from mobilevd.method import temporal_pruning
from mobilevd.svd.unet import VideoUNet


def block_costs(unet: VideoUNet, latents: Sequence[int]) -> dict[str, float]:
    """Name of every temporal block, in the network's order → TFLOPs on a clip with latents ``latents`` (B F C H W).

    The network may hold real or meta weights and is not changed. Errors: SurgeryError for foreign latents, or a network
    without temporal blocks.
    """
    bare = outline(unet)
    names = temporal_pruning.prunable(bare)
    temporal_pruning.remove(bare, [])
    whole, left = _by_module(unet, latents), _by_module(bare, latents)
    return {name: (whole[name] - left[name]) / 1e12 for name in names}


def outline(network: nn.Module) -> nn.Module:
    """A copy whose weights are on the meta device: the same modules, no memory."""
    tensors = [*network.parameters(), *network.buffers()]
    shapes = {
        id(t): nn.Parameter(t.detach().to("meta")) if isinstance(t, nn.Parameter) else t.to("meta") for t in tensors
    }
    return copy.deepcopy(network, shapes)


def _by_module(unet: VideoUNet, latents: Sequence[int]) -> dict[str, int]:
    root = f"{type(unet).__name__}."
    return {name.removeprefix(root): flops for name, flops in cost.by_module(unet, latents).items()}
