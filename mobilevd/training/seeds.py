"""Random numbers as a function of where they are used: (seed, stage, purpose, step, ...) → generator.

**Keeps** a step's draws never depend on the steps before it, so a training that is resumed draws what the
uninterrupted one would have drawn, without any generator state to save (``tests/training/test_seeds.py``).
"""

import hashlib

import torch


def derive(seed: int, *path: object) -> int:
    """A 63-bit seed that depends on ``seed`` and on every element of ``path``."""
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *path: object) -> torch.Generator:
    """A CPU generator at ``derive(seed, *path)``: the same numbers on every device."""
    return torch.Generator().manual_seed(derive(seed, *path))
