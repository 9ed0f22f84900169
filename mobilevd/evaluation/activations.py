"""What a clip keeps in memory for its gradients, counted on the meta device: nothing is computed.

**Keeps** the count is what a real pass holds, within a quarter (``tests/evaluation/test_activations.py``). Attention is
the plain one here, whose matrices a fused kernel does not keep: a count from above.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from mobilevd.svd import recompute
from mobilevd.svd.unet import VideoUNet


def kept_bytes(unet: VideoUNet, latents: Sequence[int], lean: bool = False) -> int:
    """Bytes in fp32 of one pass on latents of that shape (B F C H W); ``unet`` lies on the meta device.

    ``lean``: with gradient checkpointing, where the blocks' inputs are kept, and one block's own tensors at a time.
    """
    seen, largest = _Seen(), [0]

    def segment(block: Callable, *args) -> Tensor:
        own = _Seen()
        for tensor in args:
            seen.add(tensor)
        with own.hooks():
            out = block(*args)
        largest.append(own.size)
        return out

    if lean:
        recompute.arrange(unet, segment)
    with seen.hooks():
        unet.train()(*_inputs(unet.config, latents))
    return seen.size + max(largest)


class _Seen:
    """Tensors that are held, each storage once; parameters are held anyway."""

    def __init__(self):
        self.held: dict[int, Tensor] = {}

    @property
    def size(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self.held.values())

    def add(self, tensor) -> None:
        if isinstance(tensor, Tensor) and not isinstance(tensor, nn.Parameter):
            self.held.setdefault(tensor.untyped_storage()._cdata, tensor)

    def hooks(self) -> saved_tensors_hooks:
        def pack(tensor: Tensor) -> Tensor:
            self.add(tensor)
            return tensor

        return saved_tensors_hooks(pack, lambda tensor: tensor)


def _inputs(config, latents: Sequence[int]) -> tuple[Tensor, ...]:
    batch, frames, _, height, width = latents
    numbers = config.projection_class_embeddings_input_dim // config.addition_time_embed_dim
    shapes = (batch, frames, config.in_channels, height, width), (batch,), (batch, 1, config.cross_attention_dim)
    return tuple(torch.empty(shape, device="meta") for shape in (*shapes, (batch, numbers)))
