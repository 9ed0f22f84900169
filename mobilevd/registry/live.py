"""Curves go to MLflow while a stage still trains: in batches, from a thread of their own, into the run that registering
completes. Without an answer the training goes on, and registering writes everything down.

**Keeps** every point is there once, after a kill and after a roll-back too (``tests/registry/test_live.py``).
"""

import queue
import threading
import time

from mobilevd import progress
from mobilevd.errors import MobileVDError
from mobilevd.params import Recipe
from mobilevd.registry import runs, tracking

EVERY_S = 10.0
PATIENCE_S = 10.0  # for the last batch
KEY, ROLLBACKS = "live", "live_rollbacks"
Points = list[tuple[str, float, int]]  # curve, value, step


class Live:
    """What one training tells MLflow while it runs; call it after every step."""

    def __init__(self, recipe: Recipe, stage: str, place: str):
        """``place`` tells this stage of this run from every other, on whatever machine it goes on."""
        self._tags = {KEY: f"{place} {recipe.digest[:12]}", "stage": stage, "recipe_digest": recipe.digest}
        self._recipe, self._stage, self._batches = recipe, stage, queue.SimpleQueue()
        self._sent = self._rollbacks = -1
        self._due, self.run_id, self._opened, self._thread = 0.0, None, None, None
        self._there: set[tuple[str, int]] = set()

    def __call__(self, curves: dict[str, list[tuple[int, float]]], rollbacks: int, last: bool = False) -> None:
        """Hand over what is new, if it is time; ``last``: in any case."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        now = time.monotonic()
        if now < self._due and not last:
            return
        self._due = now + EVERY_S
        if rollbacks != self._rollbacks:
            self._sent, self._rollbacks = -1, rollbacks
        points = [(name, value, step) for name, curve in curves.items() for step, value in _after(curve, self._sent)]
        self._sent = max((step for _, _, step in points), default=self._sent)
        self._batches.put((points, rollbacks))

    def end(self, curves: dict[str, list[tuple[int, float]]], rollbacks: int) -> dict[str, str]:
        """Send the rest, wait a little for it; what the stage's record must say, so that registering finds the run.

        A process that was never called, for another one leads, has nothing to send.
        """
        if self._thread is None:
            return {}
        self(curves, rollbacks, last=True)
        self._batches.put(None)
        self._thread.join(PATIENCE_S)
        return {runs.LIVE_RUN: self.run_id} if self.run_id else {}

    def _work(self) -> None:
        waiting, told = [], False
        while (batch := self._batches.get()) is not None:
            waiting.append(batch)
            try:
                self._send(waiting)
            except MobileVDError as error:
                self._opened = None  # what it took before it failed is to be seen
                if not told:
                    progress.say(f"{self._stage}: {error}".replace("\n", "; "))
                told = True

    def _send(self, waiting: list[tuple[Points, int]]) -> None:
        """Send batches from the first on; those that MLflow took leave the list. Errors: MobileVDError."""
        client = tracking.connect()
        kept = f"the training goes on without it; registering writes all of {self._stage} down"
        with tracking.told("MLflow does not take the curves", kept):
            while waiting:
                points, rollbacks = waiting[0]
                if self._opened != rollbacks:
                    self._open(client, rollbacks)
                runs.log_points(client, self.run_id, points, time.time(), self._there)
                waiting.pop(0)

    def _open(self, client, rollbacks: int) -> None:
        """Find this stage's run and what it holds, which was sent before a kill, or make one."""
        into, own = runs.experiment(client, self._recipe.registry.experiment), None
        for run in client.search_runs([into], f"tags.{KEY} = '{self._tags[KEY]}'"):
            if runs.PARENT in run.data.tags:
                continue
            if run.data.tags[ROLLBACKS] == str(rollbacks):
                own = run.info.run_id
            else:
                client.delete_run(run.info.run_id)  # what it holds was trained anew
        self._there = set() if own is None else runs.logged(client, own)
        tags = self._tags | {ROLLBACKS: str(rollbacks)}
        self.run_id = own or client.create_run(into, tags=tags, run_name=self._stage).info.run_id
        self._opened = rollbacks


def _after(curve: list[tuple[int, float]], step: int) -> list[tuple[int, float]]:
    first = len(curve)
    while first and curve[first - 1][0] > step:
        first -= 1
    return curve[first:]
