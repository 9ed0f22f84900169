"""What one whole run costs here: wall time, peak memory, seconds of each stage. ``python benchmarks/run.py``"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run the flow as a child process, and print what it took as JSON; the flow's own exit code is passed on."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--recipe", default="params.yaml", help="the recipe to run (default: params.yaml)")
    recipe = options.parse_args().recipe
    before, began = set(_records()), time.perf_counter()
    done = subprocess.run([sys.executable, "flows/train_flow.py", "--config", "recipe", recipe, "run"], cwd=ROOT)
    stages = {path.parent.name: json.loads(path.read_text()) for path in sorted(set(_records()) - before)}
    figures = {
        "recipe": recipe,
        "wall_min": round((time.perf_counter() - began) / 60, 1),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2),
        "stage_s": {name: round(record["seconds"]) for name, record in stages.items()},
        "cores": os.cpu_count(),
        "machine": f"{platform.machine()}, {platform.system()}",
        "python": platform.python_version(),
        "exit_code": done.returncode,
    }
    print(json.dumps(figures, indent=2))
    return done.returncode


def _records() -> list[Path]:
    return list((ROOT / "runs" / "TrainFlow").glob("*/*/record.json"))


if __name__ == "__main__":
    sys.exit(main())
