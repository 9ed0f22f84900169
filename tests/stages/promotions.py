"""Promotions in processes of their own, one of which may be killed on its way: a script of test_promote.py.

``promotions.py VERSION…`` promotes the first three at once; then it kills the promotion of each next one at the next
of POINTS, looks, reconciles in a new process, and looks again. Prints JSON.
"""

import json
import os
import signal
import sys
from multiprocessing import get_context

import boto3  # noqa: F401  (with what follows: imported once, here; every process below is a fork with its own connection)
import mlflow.artifacts
import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
from sqlalchemy.orm import configure_mappers

from mobilevd import objects
from mobilevd.errors import MobileVDError
from mobilevd.registry import versions
from mobilevd.registry.ledger import champion
from mobilevd.stages import promote

MODEL = "mobilevd"
ON_S3 = os.environ.get(versions.LEDGER, "").startswith("s3://")
IN_THE_LEDGER = {
    "checked, nothing written": (objects.Folder, "create", "before"),
    "entry written aside": (objects, "_link", "before"),
    "entry made": (objects, "_link", "after"),
}
ON_S3_INSTEAD = {
    "checked, nothing written": (objects.Bucket, "create", "before"),
    "entry not yet sent": (objects.Bucket, "_put", "before"),
    "entry made": (objects.Bucket, "_put", "after"),
}
POINTS = {
    **(ON_S3_INSTEAD if ON_S3 else IN_THE_LEDGER),
    "entry made, aliases not": (versions, "point", "before"),
    "first alias set": (versions, "point", "after"),
    "aliases set, nobody told": (promote, "announce", "before"),
    "told": (promote, "announce", "after"),
}
CONTEXT = get_context("fork")
configure_mappers()


def promote_one(version: str) -> str:
    try:
        wanted = promote.candidate(MODEL, version, "tried")
        return promote.run(MODEL, wanted, lambda folder: None).line
    except MobileVDError as error:
        return str(error)


def killed(version: str, owner, name: str, when: str) -> None:
    original = getattr(owner, name)

    def dying(*words):
        if when == "after":
            original(*words)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, dying)
    promote_one(version)


def looked() -> dict:
    entries = promote.ledger(MODEL).history()
    return {"champion": champion(entries), "entries": len(entries), "aliases": versions.aliases(MODEL)}


def reconciled() -> list:
    before = looked()
    return [before, promote.reconcile(MODEL), looked()]


def apart(function, *words):
    """What the function returns in a fork; minus its signal when it was killed."""
    answers = CONTEXT.SimpleQueue()
    process = CONTEXT.Process(target=lambda: answers.put(function(*words)))
    process.start()
    process.join()
    return answers.get() if process.exitcode == 0 else process.exitcode


def together(numbers: list[str]) -> list[str]:
    barrier, answers = CONTEXT.Barrier(len(numbers)), CONTEXT.SimpleQueue()

    def one(version: str) -> None:
        decide = promote.switch

        def when_all_have_checked(model, checked):
            barrier.wait(60)
            return decide(model, checked)

        promote.switch = when_all_have_checked
        answers.put(promote_one(version))

    processes = [CONTEXT.Process(target=one, args=(number,)) for number in numbers]
    for process in processes:
        process.start()
    told = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    return told


if __name__ == "__main__":
    first, rest = sys.argv[1:4], sys.argv[4:]
    raced = {"told": together(first), "state": apart(looked)}
    steps = zip(rest, POINTS.items(), strict=True)
    ended = [[point, apart(killed, number, *how), apart(reconciled)] for number, (point, how) in steps]
    print(json.dumps({"together": raced, "killed": ended}))
