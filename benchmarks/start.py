"""How long a stage's process takes to start, and how long it would with diffusers loaded as it comes.

``python benchmarks/start.py [--repeats N]``: seconds of the processor per start, the smallest of N, both kinds in turn.
"""

import argparse
import json
import os
import subprocess
import sys

STAGE = "import mobilevd.stages.funnel"
AS_IT_COMES = "import diffusers.models.unets.unet_spatio_temporal_condition"
KINDS = {"mobilevd_s": STAGE, "as_it_comes_s": f"{AS_IT_COMES}; {STAGE}"}


def main() -> None:
    """Print both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    for code in KINDS.values():
        seconds(code)  # the first time Python compiles, and the disk is read
    runs = [{name: seconds(code) for name, code in KINDS.items()} for _ in range(repeats)]
    told = {name: round(min(run[name] for run in runs), 2) for name in KINDS}
    print(json.dumps(told | {"ratio": round(told["mobilevd_s"] / told["as_it_comes_s"], 3)}))


def seconds(code: str) -> float:
    """Seconds of the processor that Python takes for ``code``."""
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"exit {process.returncode}: {code}")
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
