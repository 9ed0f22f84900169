"""FSDP2: the network's weights, gradients and optimizer state split over the processes; checkpoints hold whole tensors.

**Keeps** a checkpoint of a split training continues unsplit, and the other way round; at the end the network is the
plain one that it was, in every process (``tests/training/test_processes.py``).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16}
BLOCKS = ("down_blocks", "up_blocks")


def shard(network: nn.Module, device: torch.device, precision: str) -> Callable[[], None]:
    """Split ``network`` in place, block by block, over all processes of this training; return what undoes that.

    Gathered weights are let go after each use, those outside of the blocks, too, which FSDP2 would keep: a validation
    has the average's, and the step after it must not.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    policy = MixedPrecisionPolicy(  # autocast casts what goes in, where that is fine: not σ, nor a clip's ids
        param_dtype=DTYPE.get(precision), reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    undo = _remembered(network)
    blocks = [block for name in BLOCKS for block in getattr(network, name, None) or []]
    for part in [*blocks, network.mid_block, network]:
        fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    return undo


def _remembered(network: nn.Module) -> Callable[[], None]:
    """What gives every module the class, attributes and hooks that it has now, and whole weights; all must call it."""
    now = [
        (m, type(m), set(vars(m)), {k: v.copy() for k, v in vars(m).items() if "hooks" in k and v is not None})
        for m in network.modules()
    ]

    def undo() -> None:
        """All processes at once, for weights are gathered."""
        for module, kind, names, hooks in now:
            module.__class__ = kind
            for name in vars(module).keys() - names:
                delattr(module, name)
            vars(module).update(hooks)
            for name, p in module.named_parameters(recurse=False):
                if split(p):
                    setattr(module, name, nn.Parameter(whole(p), p.requires_grad))

    return undo


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
