"""TAESD's decoder with random weights, under its upstream names."""

import torch
from safetensors.torch import save_file


def written(folder, **changed):
    """The file; ``changed`` replaces a tensor, or leaves it out (None)."""
    torch.manual_seed(0)
    shapes = {"1": (64, 4, 3, 3), "19": (3, 64, 3, 3)} | {str(n): (64, 64, 3, 3) for n in (7, 12, 17)}
    tensors = {f"{n}.weight": torch.randn(*shape) * 0.05 for n, shape in shapes.items()}
    tensors |= {"1.bias": torch.zeros(64), "19.bias": torch.zeros(3)}
    for block in (3, 4, 5, 8, 9, 10, 13, 14, 15, 18):
        for layer in (0, 2, 4):
            tensors[f"{block}.conv.{layer}.weight"] = torch.randn(64, 64, 3, 3) * 0.05
            tensors[f"{block}.conv.{layer}.bias"] = torch.zeros(64)
    path = folder / "taesd.safetensors"
    save_file({k: v.bfloat16() for k, v in (tensors | changed).items() if v is not None}, path)
    return path
