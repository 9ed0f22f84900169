"""AnimateDiff's temporal blocks, and temporal layers of other networks: what pruning meets besides SVD's own blocks.

**Source** AnimateDiff (arXiv 2307.04725), diffusers. A motion module is y = x + proj_out(f(x)) over the frames.
**Keeps** every layer that mixes frames is either found or named (``tests/method/test_temporal_pruning.py``).
"""

from torch import nn

from mobilevd.svd.unet import SpatioTemporalResBlock, TransformerSpatioTemporalModel
from mobilevd.svd.upstream import AnimateDiffTransformer3D, TemporalConvLayer, TransformerTemporalModel

__all__ = ["AnimateDiffTransformer3D", "foreign_temporal_layers", "motion_modules"]
KNOWN = (SpatioTemporalResBlock, TransformerSpatioTemporalModel, AnimateDiffTransformer3D)


def motion_modules(network: nn.Module) -> dict[str, nn.Module]:
    """Name → motion module, in the network's order."""
    return {name: module for name, module in network.named_modules() if isinstance(module, AnimateDiffTransformer3D)}


def foreign_temporal_layers(network: nn.Module) -> list[str]:
    """``name (kind)`` of every temporal layer that is part of neither SVD's blocks nor a motion module.

    UNet3D's temporal layers are such, and any other convolution over frames.
    """
    found, seen = [], []
    for name, module in network.named_modules():
        if name.startswith(tuple(f"{outer}." for outer in seen)):
            continue
        if foreign := _is_foreign(module):
            found.append(f"{name} ({type(module).__name__})")
        if foreign or isinstance(module, KNOWN):
            seen.append(name)
    return found


def _is_foreign(module: nn.Module) -> bool:
    over_frames = isinstance(module, nn.Conv3d) and module.kernel_size[0] > 1
    return over_frames or isinstance(module, TemporalConvLayer | TransformerTemporalModel)
