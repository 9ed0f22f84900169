"""What is used of diffusers' networks: the one place that imports them.

Where they are installed, diffusers loads bitsandbytes, and more of torch's compiler with it, for quantizers, and scipy
for schedulers. Nothing here uses either, and they take about a third of a process's start (``benchmarks/start.py``); so
it does not see them, and transformers, which it loads, no scipy.
**Keeps** both there for whoever asks for them (``tests/svd/test_upstream.py``).
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "GEGLU",
    "AlphaBlender",
    "AnimateDiffTransformer3D",
    "Attention",
    "AttnProcessor",
    "AttnProcessor2_0",
    "AutoencoderKLTemporalDecoder",
    "BasicTransformerBlock",
    "DecoderTiny",
    "FeedForward",
    "ResnetBlock2D",
    "SpatioTemporalResBlock",
    "TemporalBasicTransformerBlock",
    "TemporalConvLayer",
    "TemporalResnetBlock",
    "TransformerSpatioTemporalModel",
    "TransformerTemporalModel",
    "UNetSpatioTemporalConditionModel",
    "logging",
]
UNUSED = "bitsandbytes", "scipy"


@contextmanager
def unseen(*packages: str) -> Iterator[None]:
    """Those of ``packages`` that are not loaded yet, as if they were not installed."""
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with unseen(*UNUSED):
    from diffusers import UNetSpatioTemporalConditionModel
    from diffusers.models.activations import GEGLU
    from diffusers.models.attention import BasicTransformerBlock, FeedForward, TemporalBasicTransformerBlock
    from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
    from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import AutoencoderKLTemporalDecoder
    from diffusers.models.autoencoders.vae import DecoderTiny
    from diffusers.models.resnet import (
        AlphaBlender,
        ResnetBlock2D,
        SpatioTemporalResBlock,
        TemporalConvLayer,
        TemporalResnetBlock,
    )
    from diffusers.models.transformers.transformer_temporal import (
        TransformerSpatioTemporalModel,
        TransformerTemporalModel,
    )
    from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
    from diffusers.utils import logging
