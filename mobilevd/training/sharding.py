"""FSDP2: the network's weights, gradients and optimizer state split over the processes; checkpoints hold whole tensors.

**Keeps** a checkpoint of a split training continues unsplit, and the other way round
(``tests/training/test_processes.py``).
"""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16}
BLOCKS = ("down_blocks", "up_blocks")


def shard(network: nn.Module, device: torch.device, precision: str) -> None:
    """Split ``network`` in place, block by block, over all processes of this training."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    policy = MixedPrecisionPolicy(  # autocast casts what goes in, where that is fine: not σ, nor a clip's ids
        param_dtype=DTYPE.get(precision), reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    blocks = [block for name in BLOCKS for block in getattr(network, name, None) or []]
    for block in [*blocks, network.mid_block]:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(network, mesh=mesh, mp_policy=policy)


def split(t: Tensor) -> bool:
    """Whether this tensor is split over processes."""
    return isinstance(t, DTensor)


def whole(t: Tensor) -> Tensor:
    """The tensor itself, gathered from all processes when it is split; every process must ask."""
    return t.detach().full_tensor() if split(t) else t.detach()


def kept(t: Tensor, here: bool) -> Tensor:
    """For a checkpoint: a split tensor is gathered off the device, ``here``; elsewhere nothing of it stays."""
    if not split(t):
        return t.detach()
    gathered = t.detach().full_tensor()
    return gathered.cpu() if here else gathered.new_empty(0)


def like(t: Tensor, own: Tensor) -> Tensor:
    """A whole tensor, split as ``own`` is."""
    return distribute_tensor(t.to(own.device), own.device_mesh, own.placements) if split(own) else t


def norm(tensors: list[Tensor]) -> Tensor:
    """The norm of all tensors together, split or not."""
    norms = [whole(torch.nn.utils.get_total_norm(part)) for part in _kinds(tensors)]
    return torch.stack([n.to(norms[0]) for n in norms]).norm()


def scale(tensors: list[Tensor], factor: float) -> None:
    """Multiply all tensors in place."""
    for part in _kinds(tensors):
        torch._foreach_mul_(part, factor)


def lerp(averages: list[Tensor], tensors: list[Tensor], share: float) -> None:
    """Move each average in place by ``share`` of the way to its tensor."""
    for own, seen in zip(_kinds(averages), _kinds(tensors), strict=True):
        torch._foreach_lerp_(own, seen, share)


def _kinds(tensors: list[Tensor]) -> list[list[Tensor]]:
    """Split ones and whole ones apart, for torch takes no list of both."""
    parts = [[t for t in tensors if split(t)], [t for t in tensors if not split(t)]]
    return [part for part in parts if part]
