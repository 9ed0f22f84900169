"""AnimateDiff's temporal blocks, and temporal layers of other networks: what pruning meets besides SVD's own blocks.

**Source** AnimateDiff (arXiv 2307.04725), diffusers. A motion module is y = x + proj_out(f(x)) over the frames.
**Keeps** every layer that mixes frames is either found or named (``tests/method/test_temporal_pruning.py``).
"""

from diffusers.models.resnet import TemporalConvLayer
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import nn

__all__ = ["AnimateDiffTransformer3D", "foreign_temporal_layers", "motion_modules"]


def motion_modules(network: nn.Module) -> dict[str, nn.Module]:
    """Name → motion module, in the network's order."""
    return {name: module for name, module in network.named_modules() if isinstance(module, AnimateDiffTransformer3D)}


def foreign_temporal_layers(network: nn.Module) -> list[str]:
    """``name (kind)`` of every temporal layer that is neither SVD's nor a motion module, as UNet3D's."""
    kinds = (TemporalConvLayer, TransformerTemporalModel)
    return [f"{name} ({type(m).__name__})" for name, m in network.named_modules() if isinstance(m, kinds)]
