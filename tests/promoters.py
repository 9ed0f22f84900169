"""Processes that switch champions all at once, each in its own interpreter state; started by the ledger's tests."""

import os
import signal
from collections.abc import Callable
from multiprocessing import get_context

from mobilevd import objects
from mobilevd.errors import PromotionError
from mobilevd.registry.ledger import Checked, Ledger, champion

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["mobilevd.registry.ledger", "boto3"])


def draft(entries: list, version: str, **changes) -> Checked:
    """A promotion decided on what ``entries`` say."""
    values = {"after": len(entries), "token": f"token of {version}", "action": "promote", "to_version": version}
    values |= {"from_version": champion(entries), "bundle_sha256": f"bundle {version}", "who": "tests", "why": "tried"}
    return Checked(**(values | {"report_sha256": f"report {version}"} | changes))


def together(job: Callable, address: str, count: int, environment: dict[str, str] | None = None) -> list:
    """Run ``job(address, number, barrier)`` in ``count`` processes; what each returned, in order."""
    barrier, answers = CONTEXT.Barrier(count), CONTEXT.SimpleQueue()
    arguments = [(job, address, number, barrier, answers, environment or {}) for number in range(count)]
    processes = [CONTEXT.Process(target=_answer, args=words) for words in arguments]
    for process in processes:
        process.start()
    given = dict(answers.get() for _ in processes)
    for process in processes:
        process.join()
    return [given[number] for number in range(count)]


def _answer(job, address, number, barrier, answers, environment) -> None:
    os.environ.update(environment)
    answer = "died"  # told even then, so that nobody waits for it
    try:
        answer = job(address, number, barrier)
    finally:
        answers.put((number, answer))


def once(address: str, number: int, barrier) -> str | None:
    """Decide, wait until everyone has decided, switch: None for the winner, the message for a loser."""
    ledger = Ledger(address)
    wanted = draft(ledger.history(), str(number))
    barrier.wait(60)
    try:
        ledger.append(wanted)
    except PromotionError as error:
        return str(error)
    return None


def until_won(address: str, number: int, barrier) -> int:
    """Switch, and decide anew after every loss; returns the number of losses."""
    ledger, losses = Ledger(address), 0
    barrier.wait(60)
    while True:
        try:
            ledger.append(draft(ledger.history(), str(number)))
        except PromotionError:
            losses += 1
        else:
            return losses


def killed_at(point: str, address: str, environment: dict[str, str] | None = None) -> int:
    """Switch to version "2" in a process that is killed at ``point`` of the way; returns its exit code."""
    process = CONTEXT.Process(target=_die, args=(point, address, environment or {}))
    process.start()
    process.join()
    return process.exitcode


def _die(point: str, address: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    *owner, name = point.split()[1].split(".")
    place = getattr(objects, owner[0]) if owner else objects
    original = getattr(place, name)

    def dying(*words):
        if point.startswith("after"):
            original(*words)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(place, name, dying)
    ledger = Ledger(address)
    ledger.append(draft(ledger.history(), "2"))
