"""What a training's checkpoint costs beside the library's file digested afterwards. ``python benchmarks/checkpoint.py``

Half a GB, written and sealed by each in turns, a pause between: in a training minutes lie between two, in which the
system puts the last one on the disk. The best of three counts; exit code 1 when ours takes longer than its limit.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

LIMIT_S = 2.0  # for a GB, by the clock
PAUSE_S = 35.0  # Linux writes what is 30 s old
ROUNDS = 3


def main() -> int:
    """Measure both ways and print them; returns 1 when the limit is missed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pause", type=float, default=PAUSE_S, help="seconds between two")
    options.add_argument("--json", action="store_true", help="figures as JSON")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), given.pause)
    ours, plain = found["ours"], found["by the library"]
    if given.json:
        print(json.dumps(found, indent=2))
    else:
        print(f"a checkpoint: {ours['clock']:.2f} s for a GB written and sealed, at most {LIMIT_S:g}", end="")
        print(f" ({ours['processor']:.2f} of the processor); by the library, digested afterwards,", end=" ")
        print(f"{plain['clock']:.2f} ({plain['processor']:.2f})")
    return int(ours["clock"] > LIMIT_S)


def measured(folder: Path, pause_s: float) -> dict[str, dict[str, float]]:
    """Way of writing → the best seconds for a GB, by the clock and of the processor."""
    import torch

    tensors = {str(k): torch.randn(1 << 22) for k in range(32)}
    gigabytes = sum(t.numel() * t.element_size() for t in tensors.values()) / 1e9
    took = {name: [] for name in ways(folder, tensors)}
    for step in range(ROUNDS):
        for name, write in ways(folder, tensors).items():
            began, spent = time.perf_counter(), time.process_time()
            write(step)
            took[name].append((time.perf_counter() - began, time.process_time() - spent))
            time.sleep(pause_s)
    best = {name: [min(column) / gigabytes for column in zip(*runs, strict=True)] for name, runs in took.items()}
    return {name: {"clock": clock, "processor": used} for name, (clock, used) in best.items()}


def ways(folder: Path, tensors: dict) -> dict[str, Callable[[int], None]]:
    """What writes the tensors as the checkpoint of a step, by name."""
    from safetensors.torch import save_file

    from mobilevd.artifacts import seal
    from mobilevd.training.checkpoints import Checkpoints

    kept, plain = Checkpoints(folder / "checkpoints", "benchmark"), folder / "plain"

    def by_library(step: int) -> None:
        (plain / str(step)).mkdir(parents=True)
        save_file(tensors, plain / str(step) / "generator.safetensors")
        seal(plain / str(step))

    return {"ours": lambda step: kept.save(step, {"generator": tensors}, {}), "by the library": by_library}


if __name__ == "__main__":
    sys.exit(main())
