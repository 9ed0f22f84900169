"""Two machines share a training stage; one that waits for another in vain ends within the rendezvous time."""

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mobilevd.errors import MobileVDError
from mobilevd.method import surgery
from mobilevd.stages import worker
from mobilevd.svd.unet import VideoUNet
from mobilevd.training.preemption import PreemptedError


@pytest.fixture
def job(tiny_recipe, prepared):
    """``job(patience_s)``: a finetuning of two steps, its network split over the processes."""
    recipe = tiny_recipe(training={"shard": True})
    records = prepared(recipe)
    return lambda patience_s: worker.Job(stage="finetune", recipe=recipe, records=records, patience_s=patience_s)


def gang(node: int, port: int) -> worker.Gang:
    return worker.Gang(nodes=2, node=node, address="127.0.0.1", port=port, processes=1)


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_two_machines_share_a_stage_and_the_first_leaves_its_record(job, port, tmp_path):
    folders = [tmp_path / "machine0", tmp_path / "machine1"]
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(worker.together, job(300), folders[node], gang(node, port)) for node in (0, 1)]
        first, second = (done.result() for done in jobs)
    assert second is None
    assert first.stage == "finetune"
    assert (folders[0] / "network" / "manifest.json").is_file()
    assert [step for step, _ in first.curves["loss"]] == [1, 2]
    assert not (folders[1] / "network").exists()
    assert not any((folders[1] / "ranks").iterdir())
    network, _ = surgery.load(folders[0] / "network")
    assert type(network) is VideoUNet


TORCHRUN = """#!/bin/sh
trap 'echo saved > "$0.saved"; exit 1' TERM
kill -TERM $PPID
for k in 1 2 3 4 5 6 7 8 9 10; do sleep 0.1; done
"""


def test_sigterm_reaches_the_processes_and_their_end_is_waited_for(job, tmp_path, monkeypatch):
    """torchrun is a script here, which has the task's process told to go, as a spot machine's watcher does."""
    torchrun = tmp_path / "torchrun"
    torchrun.write_text(TORCHRUN)
    torchrun.chmod(0o755)
    monkeypatch.setattr(worker.sys, "executable", str(torchrun))
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with pytest.raises(PreemptedError, match="Machine 0 of 2 was asked to stop"):
            worker.together(job(3), tmp_path / "work", gang(0, 1))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (tmp_path / "torchrun.saved").is_file()


@pytest.mark.slow
def test_a_machine_that_waits_in_vain_gives_up(job, port, tmp_path):
    began = time.monotonic()
    with pytest.raises(MobileVDError, match="Machine 1 of 2 did not finish"):
        worker.together(job(3), tmp_path / "alone", gang(1, port))
    assert time.monotonic() - began < 250, "torch's own patience is 300 s and more"
