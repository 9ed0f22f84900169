"""Work that leaves one file per clip, spread over processes: each takes an equal share and skips what is there.

**Keeps** a process that fails is told with its own words, and none outlives the one that asked
(``tests/stages/test_sampling.py``).
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import save_file
from torch import Tensor

from mobilevd.errors import MobileVDError

PROCESSES = "MOBILEVD_PROCESSES"
OWN_BYTES = 2 << 30  # of one process, beside four times its largest network
Share = tuple[int, int]  # number, of how many


def processes(network_bytes: int) -> int:
    """$MOBILEVD_PROCESSES, or one for each GPU, or without one as many as threads and free memory allow.

    Errors: MobileVDError for no count.
    """
    if told := os.environ.get(PROCESSES):
        if not told.isdigit() or int(told) < 1:
            raise MobileVDError("This is no number of processes", got=told, allowed="1 or more", where=PROCESSES)
        return int(told)
    if gpus := torch.cuda.device_count():
        return gpus
    room = psutil.virtual_memory().available // (OWN_BYTES + 4 * network_bytes)
    return max(1, min(torch.get_num_threads(), room))


def run(module: str, folder: Path, files: Sequence[Path], count: int, *words: str) -> Iterator[Path]:
    """Run ``python -m module`` on ``count`` shares of the work in ``folder``; yields ``files`` as they appear.

    Errors: MobileVDError with what a process said that failed.
    """
    threads = max(1, torch.get_num_threads() // count)
    logs = [folder.with_name(f"{folder.name}-process-{k}.log") for k in range(count)]
    started = [_start([module, str(folder), *map(str, (k, count)), *words], threads, log) for k, log in enumerate(logs)]
    try:
        yield from _arriving(list(files), started, logs)
    finally:
        for process in started:
            process.terminate()
            process.wait()
    for log in logs:
        log.unlink()


def serve(work: Callable[[Path, Share, Sequence[str]], Iterable[Any]], arguments: Sequence[str]) -> None:
    """What a module's ``__main__`` calls: do one share, and stop when whoever asked is gone."""
    folder, share, of, *words = arguments
    asked_by = os.getppid()
    for _ in work(Path(folder), (int(share), int(of)), words):
        if os.getppid() != asked_by:
            return


def save(path: Path, tensors: dict[str, Tensor]) -> None:
    """Whole or not at all: a file that is there is done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, aside)
    aside.replace(path)


def _start(words: Sequence[str], threads: int, log: Path) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with log.open("wb") as said:
        return subprocess.Popen([sys.executable, "-m", *words], stdout=said, stderr=said, env=environment)


def _arriving(waiting: list[Path], started: Sequence[subprocess.Popen], logs: Sequence[Path]) -> Iterator[Path]:
    while waiting:
        ended = [process.poll() for process in started]  # before looking: what an ended one left is there
        there = {path for path in waiting if path.exists()}
        yield from there
        waiting = [path for path in waiting if path not in there]
        if any(ended) or (waiting and None not in ended):
            log = logs[next((k for k, code in enumerate(ended) if code), 0)]
            told = log.read_text(errors="replace").strip()[-2000:]
            raise MobileVDError("A process that makes samples failed", got=told, where=str(log))
        time.sleep(0.2)
