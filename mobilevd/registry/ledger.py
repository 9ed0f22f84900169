"""Which version is champion: an append-only ledger, whose entry n + 1 is created only where there is none.

**Keeps** of many promotions from one state exactly one wins and the others are told; a reader always sees one
champion; an entry that was changed, lost or slipped in is an error that names it (``tests/registry/test_ledger.py``).
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from mobilevd import objects
from mobilevd.errors import IntegrityError, PromotionError

NOTHING = ""  # the digest before the first entry
CHAMPION, PREVIOUS = "champion", "previous"


class Wanted(BaseModel):
    """A switch that somebody wants.

    ``after`` is the number of the entry it was decided on: the switch fails when there is a later one. ``token`` is
    its own, so that a repeated attempt is recognised as the same switch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    after: int
    token: str
    action: Literal["promote", "rollback"]
    from_version: str | None
    to_version: str
    who: str
    why: str


class Checked(Wanted):
    """A switch whose target was verified: the digests of what was read, and the protocol its scores were made under."""

    bundle_sha256: str
    report_sha256: str
    protocol: Any = None


class Entry(Checked):
    """One switch that happened: ``number`` counts from 1, ``previous_sha256`` is the digest of the entry before."""

    number: int
    at: AwareDatetime
    previous_sha256: str

    @property
    def line(self) -> str:
        """The entry in words."""
        return f"entry {self.number}: {self.action} {self.from_version or 'none'} → {self.to_version}, {self.who}"


class Ledger:
    """The entries under one address (a folder or ``s3://bucket/prefix``)."""

    def __init__(self, address: str):
        self.address, self.objects = address, objects.at(address)

    def history(self) -> list[Entry]:
        """Every entry, oldest first. Errors: IntegrityError naming the entry at which the chain is broken."""
        listed = self.objects.names()  # before reading: whatever is listed, all that came before it is there
        entries: list[Entry] = []
        before = NOTHING
        while (data := self.objects.read(_name(len(entries) + 1))) is not None:
            entries.append(self._checked(data, entries, before))
            before = hashlib.sha256(data).hexdigest()
        if strange := sorted(set(listed) - {_name(entry.number) for entry in entries}):
            raise self._broken(len(entries) + 1, f"{strange[0]} without {_name(len(entries) + 1)}")
        return entries

    def append(self, checked: Checked) -> Entry:
        """Make the switch. Errors: PromotionError naming the entry that came first; IntegrityError as ``history``."""
        entries = self.history()
        if len(entries) == checked.after:
            assert checked.from_version == champion(entries), "a switch is made from the history it comes after"
            entry = _next(entries, checked, self._digest(checked.after))
            if self.objects.create(_name(entry.number), _bytes(entry)):
                return entry
            entries = self.history()
        return self._told_who_won(entries, checked)

    def _told_who_won(self, entries: Sequence[Entry], checked: Checked) -> Entry:
        winner = entries[checked.after] if checked.after < len(entries) else None
        if winner is not None and winner.token == checked.token:
            return winner  # this very switch, made by an earlier attempt whose answer was lost
        raise PromotionError(
            "Another switch came first, so nothing was switched",
            got=winner.line if winner else f"{len(entries)} entries",
            allowed=f"entry {checked.after} as the last one, as when this switch was decided",
            where=f"look at `mobilevd registry history` and decide again; {self.address}",
        )

    def _digest(self, number: int) -> str:
        data = self.objects.read(_name(number)) if number else None
        return hashlib.sha256(data).hexdigest() if data else NOTHING

    def _checked(self, data: bytes, entries: Sequence[Entry], before: str) -> Entry:
        number = len(entries) + 1
        try:
            entry = Entry.model_validate_json(data)
        except ValidationError as error:
            raise self._broken(number, f"{error.error_count()} mistakes in {_name(number)}") from None
        stated = (entry.number, entry.after, entry.previous_sha256, entry.from_version)
        if stated != (number, number - 1, before, champion(entries)):
            raise self._broken(number, f"number {entry.number}, after {entry.previous_sha256[:12] or 'nothing'}")
        return entry

    def _broken(self, number: int, got: str) -> IntegrityError:
        return IntegrityError(
            f"The ledger is broken at entry {number}",
            got=got,
            allowed="entries numbered without a gap, each naming the digest of the one before",
            where=f"{self.address}; restore the entry from a copy",
        )


def champion(entries: Sequence[Entry]) -> str | None:
    """The version that the last entry leads to; None before the first."""
    return entries[-1].to_version if entries else None


def until(entries: Sequence[Entry], moment: datetime) -> list[Entry]:
    """The entries made at ``moment`` or before (a time with its zone)."""
    return [entry for entry in entries if entry.at <= moment]


def standing(entries: Sequence[Entry]) -> list[str]:
    """Versions that a rollback can return to, then the champion: promotions pile up, a rollback takes off the top."""
    pile: list[str] = []
    for entry in entries:
        if entry.action == "rollback":
            while pile and pile[-1] != entry.to_version:
                pile.pop()
        if not pile or pile[-1] != entry.to_version:
            pile.append(entry.to_version)
    return pile


def projection(entries: Sequence[Entry]) -> dict[str, str]:
    """The aliases that follow from the entries: ``champion``, and the one before it as ``previous`` if there is one."""
    pile = standing(entries)
    return dict(zip((CHAMPION, PREVIOUS), reversed(pile[-2:]), strict=False))


def _next(entries: Sequence[Entry], checked: Checked, before: str) -> Entry:
    """A clock that went back does not make an entry older than the one before it."""
    now = datetime.now(UTC)
    at = max(now, entries[-1].at) if entries else now
    return Entry(**checked.model_dump(), number=checked.after + 1, at=at, previous_sha256=before)


def _bytes(entry: Entry) -> bytes:
    return (json.dumps(entry.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode()


def _name(number: int) -> str:
    return f"{number:08d}.json"
