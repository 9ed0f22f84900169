"""One adversarial training, alone or by two processes: ``python together.py FOLDER NAME:HOW:STEPS …``.

HOW is ``alone`` (batch 2), ``parts`` (2 parts of batch 1), ``apart`` (two processes, batch 1, on machines without a
common disk), ``split`` (two processes, the network split over both), ``rare`` (split, one checkpoint at the end, after
the last of several validations), ``bf16`` or ``fp16`` (split, in that precision),
``muon`` and ``muonsplit`` (alone and split, by that optimizer) or ``back`` (apart, a small network that goes wrong
once). Processes are forked with what torchrun sets, for imports take long. The same NAME goes on from its checkpoints;
each process prints what network it leaves, each run its curves, as JSON.
"""

import copy
import faulthandler
import json
import os
import socket
import sys
from pathlib import Path

import torch
from killable import clips, network

from mobilevd.method import surgery, temporal_pruning
from mobilevd.method.block_importance import Budget, Learned
from mobilevd.settings import Adversarial, Health, Optim, Training
from mobilevd.svd.unet import VideoUNet
from mobilevd.training import duel, engine, loop, muon
from mobilevd.training.checkpoints import Checkpoints
from mobilevd.training.health import Watch
from mobilevd.training.learner import Learner

SETTINGS = {
    "generator": {"lr": 1e-3, "warmup_steps": 2},
    "discriminator": {"lr": 1e-3, "betas": (0.5, 0.999)},
    "head_channels": 16,
    "validate_every": 2,
}
BY_MUON = {"generator": SETTINGS["generator"] | {"kind": "muon"}}
CUT = {
    "alone": {"batch_size": 2},
    "parts": {"accumulate": 2},
    "muon": BY_MUON | {"batch_size": 2},
    "muonsplit": BY_MUON,
}
SPLIT = {"split": "fp32", "rare": "fp32", "bf16": "bf16", "fp16": "fp16", "muonsplit": "fp32"}


def train(folder: Path, how: str, steps: int, rank: int) -> None:
    generator, ids = network(0), torch.tensor([[6.0, 127.0, 0.02]])
    gates = temporal_pruning.attach(generator)
    blocks = Learned(Budget((1.0,) * len(gates.names), keep=5))
    draw, settle = (lambda random: gates.set(blocks.draw(random))), (lambda: gates.set(blocks.settled()))
    mechanism = duel.Mechanism(blocks, 0.05, draw, settle)
    files = folder.parent / "train.safetensors", folder.parent / "validation.safetensors"
    settings, checkpoints = Adversarial(steps=steps, **SETTINGS | CUT.get(how, {})), Checkpoints(folder, "t")
    every = 100 if how == "rare" else None
    trained_how = Training(shard=how in SPLIT, precision=SPLIT.get(how, "fp32"), checkpoint_every=every)
    fight = duel.Duel(generator, network(1), files, (ids, ids), settings, 0, "t", trained_how, checkpoints, mechanism)
    trained = duel.train(fight)
    gates.set(blocks.settled())
    left = left_by(generator, gates, folder.parent / f"left-{folder.name}-{rank}")
    sys.stdout.write(f"left {json.dumps(left)}\n")
    if rank == 0:
        print("curves", json.dumps(trained.curves), flush=True)


def left_by(generator: VideoUNet, gates: temporal_pruning.Gates, folder: Path) -> dict:
    """What a stage does with a network that was trained: copy, bake, save, read."""
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in generator.modules())
    size = sum(tensor.double().abs().sum().item() for tensor in generator.state_dict().values())
    baked = copy.deepcopy(generator)
    surgery.save(baked, [temporal_pruning.bake(baked, gates)], folder)
    return {"kind": type(surgery.load(folder)[0]).__name__, "hooked": hooked, "size": size}


def back(folder: Path, steps: int, rank: int) -> None:
    """The second process's loss is not a number once, at the third step; the first process tells what happened."""
    torch.manual_seed(0)
    network = torch.nn.Linear(4, 4)
    learner = Learner("network", network, Optim(lr=0.1), steps, engine.Engine(Training()), ema_decay=0.5)
    bad = [1.0, 1.0, float("nan") if rank else 1.0]

    def step(k: int) -> dict[str, float]:
        loss = network(torch.ones(1, 4)).square().sum() * (bad.pop(0) if bad else 1.0)
        learner.gather(loss, k)
        return learner.move(k, learner.ready(k))

    watch = Watch(Health(not_finite="roll_back"))
    rest = {"checkpoints": Checkpoints(folder, "t"), "score": "val", "leave_best": True, "watch": watch}
    trained = loop.run(loop.Training(step, steps, [learner], "t", lambda k: {"val": abs(k - 2.0)}, **rest))
    told = {"notes": trained.notes, "weight": network.weight.sum().item(), "steps": trained.steps_taken}
    sys.stdout.write(f"told {json.dumps(told)}\n")  # at once, for both do


def main(folder: Path, plans: list[str]) -> None:
    engine.BUCKET = 10_000  # many exchanges, where these networks would fit into one
    muon.has = lambda feature: False  # in bf16, where the processor has it, rounding hides what is compared
    clips(folder / "train.safetensors", 5), clips(folder / "validation.safetensors", 2)
    for plan in plans:
        name, how, steps = plan.split(":")
        ranks = 1 if how in ("alone", "parts", "muon") else 2
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        homes = [folder / f"{name}{rank or ''}" if how in ("apart", "back") else folder / name for rank in range(ranks)]
        children = [fork(home, how, int(steps), rank, ranks, port) for rank, home in enumerate(homes)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        if any(codes):
            sys.exit(f"{plan} ended with {codes}")


def fork(folder: Path, how: str, steps: int, rank: int, ranks: int, port: int) -> int:
    if child := os.fork():
        return child
    if ranks > 1:
        local = rank if how in SPLIT else 0
        of_torchrun = {"RANK": rank, "LOCAL_RANK": local, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
        of_torchrun |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({key: str(value) for key, value in of_torchrun.items()})
    faulthandler.enable()  # a signal that ends this process says where
    code = 1
    try:
        back(folder, steps, rank) if how == "back" else train(folder, how, steps, rank)
        code = 0
    finally:
        sys.stdout.flush()
        if code:
            import traceback

            traceback.print_exc()
        os._exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
