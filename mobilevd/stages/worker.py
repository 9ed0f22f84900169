"""One process of a stage that several share: ``python -m torch.distributed.run … -m mobilevd.stages.worker job.json``.

**Keeps** one process alone writes the stage's folder; the others end with the training they share; SIGTERM reaches
all of them, and they have time to save (``tests/stages/test_worker.py``).
"""

import importlib
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from mobilevd.artifacts import StageRecord, write_json
from mobilevd.errors import MobileVDError
from mobilevd.params import Recipe
from mobilevd.stages.job import ShareDone
from mobilevd.training.preemption import PreemptedError, Preemption

JOB, MADE, CHECKPOINTS = "job.json", "made.json", "checkpoints"
LOOK_EVERY_S = 1.0
GRACE_S = 110  # a spot machine goes two minutes after it said so


class Job(BaseModel):
    """A stage to run in the folder of the file that says so: its recipe and the records of the stages before it.

    ``patience_s``: so long the processes wait for each other, at the start and at every step.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    stage: str
    recipe: Recipe
    records: dict[str, StageRecord]
    patience_s: int


class Gang(BaseModel):
    """The machines that share a stage: how many, which one this is, where the first is reached, processes on each."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    nodes: int
    node: int
    address: str
    port: int
    processes: int


def together(job: Job, workdir: Path, gang: Gang) -> StageRecord | None:
    """Run this machine's share of a stage; the first machine returns what the stage left, the others None.

    Errors: MobileVDError when a process failed, or not all machines came within the rendezvous time; PreemptedError.
    """
    workdir = Path(workdir)
    write_json(workdir / JOB, job.model_dump(mode="json"))
    command = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={gang.nodes}", f"--node-rank={gang.node}"]
    command += [f"--nproc-per-node={gang.processes}", f"--master-addr={gang.address}", f"--master-port={gang.port}"]
    command += [f"--rdzv-conf=timeout={job.patience_s}", f"--shutdown-timeout={GRACE_S}"]
    command += ["-m", __spec__.name, str(workdir / JOB)]
    with Preemption() as preemption, subprocess.Popen(command) as torchrun:
        code = _ended(torchrun, preemption)
    if preemption.asked and code != 0:
        raise PreemptedError(
            f"Machine {gang.node} of {gang.nodes} was asked to stop (SIGTERM) in its share of {job.stage}",
            allowed="its processes were told; the same run, retried or resumed, goes on from the newest checkpoint",
        )
    if code != 0:
        raise MobileVDError(
            f"Machine {gang.node} of {gang.nodes} did not finish its share of {job.stage}",
            got=f"code {code}",
            allowed=f"all {gang.nodes} machines at {gang.address}:{gang.port} within {job.patience_s} s",
            where="the task's own output above; machines.nodes, machines.rendezvous_minutes",
        )
    if gang.node:
        shutil.rmtree(workdir / CHECKPOINTS, ignore_errors=True)  # what the first machine sent here
        return None
    return StageRecord.model_validate_json((workdir / MADE).read_bytes())


def _ended(torchrun: subprocess.Popen, preemption: Preemption) -> int:
    """The code that it ends with; a SIGTERM to this process is passed on, for its processes to save and end."""
    while not preemption.asked:
        with suppress(subprocess.TimeoutExpired):
            return torchrun.wait(LOOK_EVERY_S)
    torchrun.terminate()
    return torchrun.wait()


def main(file: Path) -> None:
    """Run the stage as the process that the environment says this is."""
    import torch
    from torch import distributed

    job, rank = Job.model_validate_json(file.read_bytes()), int(os.environ["RANK"])
    on_gpu = torch.cuda.is_available()
    os.environ.setdefault("ACCELERATE_USE_CPU", str(not on_gpu).lower())  # else it takes each CPU process for alone
    distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(seconds=job.patience_s))
    own = file.parent if rank == 0 else _beside(file.parent, rank)
    stage = importlib.import_module(f"mobilevd.stages.{job.stage}")
    try:
        record = stage.run(job.recipe, job.records, own)
        write_json(file.parent / MADE, record.model_dump(mode="json"))
    except ShareDone:
        shutil.rmtree(own)
    distributed.destroy_process_group()


def _beside(workdir: Path, rank: int) -> Path:
    """A folder of its own that sees the first process's checkpoints."""
    own = workdir / "ranks" / str(rank)
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True)
    (own / CHECKPOINTS).symlink_to(workdir / CHECKPOINTS, target_is_directory=True)
    return own


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
