"""One adversarial training, alone or by two processes: ``python together.py FOLDER NAME:HOW:STEPS …``.

HOW is ``alone`` (batch 2), ``parts`` (2 parts of batch 1), ``data`` (two processes, batch 1) or ``split`` (the same,
the network split over both). Processes are forked with what torchrun sets, for imports take long. The same NAME goes on
from its checkpoints; each run prints its curves as JSON.
"""

import json
import os
import socket
import sys
from pathlib import Path

import torch
from killable import clips, network

from mobilevd.method import temporal_pruning
from mobilevd.method.block_importance import Budget, Learned
from mobilevd.settings import Adversarial, Training
from mobilevd.training import duel
from mobilevd.training.checkpoints import Checkpoints

SETTINGS = {
    "generator": {"lr": 1e-3, "warmup_steps": 2},
    "discriminator": {"lr": 1e-3, "betas": (0.5, 0.999)},
    "head_channels": 16,
    "validate_every": 2,
}
CUT = {"alone": {"batch_size": 2}, "parts": {"accumulate": 2}, "data": {}, "split": {}}


def train(folder: Path, how: str, steps: int, rank: int) -> None:
    generator, ids = network(0), torch.tensor([[6.0, 127.0, 0.02]])
    gates = temporal_pruning.attach(generator)
    blocks = Learned(Budget((1.0,) * len(gates.names), keep=5))
    draw, settle = (lambda random: gates.set(blocks.draw(random))), (lambda: gates.set(blocks.settled()))
    mechanism = duel.Mechanism(blocks, 0.05, draw, settle)
    files = folder.parent / "train.safetensors", folder.parent / "validation.safetensors"
    settings, checkpoints = Adversarial(steps=steps, **SETTINGS, **CUT[how]), Checkpoints(folder, "t")
    engine = Training(shard=how == "split")
    fight = duel.Duel(generator, network(1), files, (ids, ids), settings, 0, "t", engine, checkpoints, mechanism)
    trained = duel.train(fight)
    if rank == 0:
        print("curves", json.dumps(trained.curves), flush=True)


def main(folder: Path, plans: list[str]) -> None:
    clips(folder / "train.safetensors", 5), clips(folder / "validation.safetensors", 2)
    for plan in plans:
        name, how, steps = plan.split(":")
        ranks = 2 if how in ("data", "split") else 1
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = [fork(folder / name, how, int(steps), rank, ranks, port) for rank in range(ranks)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        if any(codes):
            sys.exit(f"{plan} ended with {codes}")


def fork(folder: Path, how: str, steps: int, rank: int, ranks: int, port: int) -> int:
    if child := os.fork():
        return child
    if ranks > 1:
        of_torchrun = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
        of_torchrun |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({key: str(value) for key, value in of_torchrun.items()})
    code = 1
    try:
        train(folder, how, steps, rank)
        code = 0
    finally:
        sys.stdout.flush()
        if code:
            import traceback

            traceback.print_exc()
        os._exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
