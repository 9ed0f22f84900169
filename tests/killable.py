"""One adversarial training, killed as told and started again: ``python killable.py FOLDER NAME:HOW:AT …``.

HOW is ``kill`` or ``term``: the signal that the process gets at the generator's forward number AT; ``run``: none. Each
is a process of its own (forked, for imports take long) that trains in FOLDER/NAME. Prints how each ended, and digests.
"""

import hashlib
import os
import signal
import sys
from pathlib import Path

import tiny_svd
import torch
from safetensors.torch import save_file

from mobilevd.method import temporal_pruning
from mobilevd.method.block_importance import Budget, Learned
from mobilevd.settings import Adversarial, Training
from mobilevd.svd.unet import VideoUNet
from mobilevd.training import duel
from mobilevd.training.checkpoints import Checkpoints
from mobilevd.training.preemption import PreemptedError

SETTINGS = Adversarial(
    steps=4,
    accumulate=2,
    generator={"lr": 1e-3, "warmup_steps": 2, "schedule": "cosine"},
    discriminator={"lr": 1e-3, "betas": (0.5, 0.999)},
    head_channels=16,
    validate_every=2,
)
HOW = Training(workers=2, checkpoint_every=1)


SMALL = tiny_svd.UNET | {
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
    "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    "block_out_channels": (32, 32),
    "num_attention_heads": (1, 1),
    "num_frames": 2,
}


def network(seed: int) -> VideoUNet:
    torch.manual_seed(seed)
    return VideoUNet(**SMALL)


def clips(path: Path, count: int) -> Path:
    g = torch.Generator().manual_seed(count)
    shapes = {"latents": (2, 4, 4, 4), "image_latents": (4, 4, 4), "tokens": (1, 16)}
    save_file({name: torch.randn(count, *shape, generator=g).half() for name, shape in shapes.items()}, path)
    return path


def die(how: str, at: int, generator: VideoUNet) -> None:
    """Arm the generator: at forward number ``at`` (with gradients, from 1) this process gets its signal."""
    seen = []

    def hook(*_: object) -> None:
        seen.extend([0] if torch.is_grad_enabled() else [])
        if torch.is_grad_enabled() and len(seen) == at:
            os.kill(os.getpid(), {"kill": signal.SIGKILL, "term": signal.SIGTERM}[how])

    generator.register_forward_pre_hook(hook)


def train(folder: Path, how: str, at: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    generator, ids = network(0), torch.tensor([[6.0, 127.0, 0.02]])
    gates = temporal_pruning.attach(generator)
    blocks = Learned(Budget((1.0,) * len(gates.names), keep=5))
    draw, settle = (lambda random: gates.set(blocks.draw(random))), (lambda: gates.set(blocks.settled()))
    mechanism = duel.Mechanism(blocks, 0.05, draw, settle)
    if how != "run":
        die(how, at, generator)
    files = clips(folder / "train.safetensors", 5), clips(folder / "validation.safetensors", 2)
    checkpoints = Checkpoints(folder / "checkpoints", "test")
    fight = duel.Duel(generator, network(1), files, (ids, ids), SETTINGS, 0, "t", HOW, checkpoints, mechanism)
    try:
        trained = duel.train(fight)
    except PreemptedError as error:
        print(error.what, sorted(path.name for path in checkpoints.folder.iterdir()))
        return
    weights = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in generator.parameters()))
    weights.update(blocks.logits.detach().numpy().tobytes())
    curves = hashlib.sha256(repr(sorted(trained.curves.items())).encode())
    print("digests", curves.hexdigest(), weights.hexdigest())
    print("notes", "; ".join(trained.notes))


def main(folder: Path, plans: list[str]) -> None:
    for plan in plans:
        name, how, at = plan.split(":")
        if not (child := os.fork()):
            train(folder / name, how, int(at))
            sys.stdout.flush()
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(f"{plan} ended with {status}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
