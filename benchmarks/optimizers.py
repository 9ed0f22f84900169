"""Muon beside AdamW: the pocket network from its start, on the same clips and draws, each at its rate of pretraining.

``python benchmarks/optimizers.py --steps 400`` (trains twice; the first time it also renders and encodes the corpus
from the sample set, which ``mobilevd sample-data`` brings).
Losses are means over a quarter of the steps, seconds are of the processor.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pocket"))

import network
import pretrain

from mobilevd.svd.base import Base

PLANS = {"adamw": pretrain.PLANS["network"], "muon": pretrain.PLANS["longer-1"]}


def main() -> int:
    """Print the losses and seconds of both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    told = {kind: trained(kind, options.steps) for kind in PLANS}
    print(json.dumps(told, indent=2) if options.json else table(told))
    return 0


def trained(kind: str, steps: int) -> dict[str, object]:
    """Train ``steps`` by this optimizer; losses come from the training's own log."""
    base = Base(pretrain.BASE)
    encoded = network.encode(base, pretrain.make_corpus(), pretrain.STATE)
    plan = replace(PLANS[kind], steps=steps, warmup=min(30, steps // 4), checkpoint_every=max(1, steps // 4), seed=0)
    start = network.fresh(0, base.vae.config.scaling_factor)
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        network.train_network(base, start, encoded, plan, Path(folder) / kind)
        seconds = time.process_time() - began
        lines = (Path(folder) / kind / "log.jsonl").read_text(encoding="utf-8").splitlines()
        log = [json.loads(line) for line in lines]
    return {"lr": plan.lr, "losses": {row["step"]: row["loss"] for row in log}, "seconds_a_step": seconds / steps}


def table(told: dict[str, dict]) -> str:
    """One line per optimizer."""
    lines = []
    for kind, seen in told.items():
        losses = ", ".join(f"{loss:.4f} up to step {step}" for step, loss in seen["losses"].items())
        lines.append(f"{kind} at {seen['lr']}: {losses}; {seen['seconds_a_step']:.3f} s a step of the processor")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
