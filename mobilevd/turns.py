"""Whose turn it is: of many runs that start at once one goes on, until it ends or gives no sign of life for its lease.

**Keeps** two runs never both have the turn; a run that lost it is told at its next sign of life
(``tests/test_turns.py``). Each sign is an object of its own, created only where none is.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from mobilevd import objects, progress
from mobilevd.errors import MobileVDError

SIGNS_PER_LEASE = 4


class Sign(BaseModel):
    """One sign of life of the run ``token``: until when nobody else may start, unless it says ``ended``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    token: str
    state: Literal["began", "goes on", "ended"]
    at: AwareDatetime
    until: AwareDatetime

    def holds(self, now: datetime) -> bool:
        """Whether others have to wait."""
        return self.state != "ended" and self.until > now


class LostTurnError(MobileVDError):
    """Another run took the turn: this one gave no sign of life for a whole lease, or was put aside by force."""


class Turns:
    """The turns under one address (a folder or ``s3://bucket/prefix``)."""

    def __init__(self, address: str, lease_hours: float):
        self.address, self.lease = address, timedelta(hours=lease_hours)
        self.objects = objects.at(address)

    def take(self, token: str, force: bool = False) -> Sign | None:
        """Take the turn for ``token``; None when it has it (a repeated attempt too), else the sign of who does."""
        while True:
            number, last = self._last()
            if last is not None and last.state != "ended" and last.token == token:
                return None
            if last is not None and last.holds(_now()) and not force:
                return last
            if self._say(number + 1, token, "began"):
                return None

    def go_on(self, token: str) -> None:
        """Give a sign of life. Errors: LostTurnError when another run has the turn."""
        self._follow(token, "goes on")

    def end(self, token: str) -> None:
        """Leave the turn to others. Errors: LostTurnError when another run has it."""
        self._follow(token, "ended")

    @contextmanager
    def kept(self, token: str) -> Iterator[None]:
        """Give signs of life while the body runs; one that the store did not take is followed by the next.

        Errors: LostTurnError before the body, or after it, never in it; MobileVDError when the store did not take the
        last sign and does not take another after the body.
        """
        self.go_on(token)
        done, failed = threading.Event(), []
        beating = threading.Thread(target=self._beat, args=(token, done, failed), daemon=True)
        beating.start()
        try:
            yield
        finally:
            done.set()
            beating.join()
        if failed:
            self.go_on(token)

    def _beat(self, token: str, done: threading.Event, failed: list[MobileVDError]) -> None:
        """Signs of life until ``done``, or until the turn is lost; ``failed``: why the last ones were not taken."""
        while not done.wait(self.lease.total_seconds() / SIGNS_PER_LEASE):
            try:
                self.go_on(token)
                failed.clear()
            except MobileVDError as error:
                if not failed:
                    progress.say(f"no sign of life was given: {error}")
                failed.append(error)
                if isinstance(error, LostTurnError):
                    return

    def _follow(self, token: str, state: str) -> None:
        """Say it, after whatever this run's other tasks say at the same time."""
        while True:
            number, last = self._last()
            if last is None or last.token != token or last.state == "ended" != state:
                raise self._lost(token, last)
            if last.state == "ended" or self._say(number + 1, token, state):
                return

    def _lost(self, token: str, last: Sign | None) -> LostTurnError:
        return LostTurnError(
            "Another run took the turn of this one",
            got=last.token if last else "no sign of any run",
            allowed=token,
            where=f"{self.address}; retrain.lease_hours is how long a silent run is waited for",
        )

    def _last(self) -> tuple[int, Sign | None]:
        names = self.objects.names()
        if not names:
            return 0, None
        return int(names[-1].removesuffix(".json")), Sign.model_validate_json(self.objects.read(names[-1]) or b"")

    def _say(self, number: int, token: str, state: str) -> bool:
        now = _now()
        sign = {"token": token, "state": state, "at": now.isoformat(), "until": (now + self.lease).isoformat()}
        return self.objects.create(f"{number:08d}.json", (json.dumps(sign) + "\n").encode())


def _now() -> datetime:
    return datetime.now(UTC)
