"""Exactly one champion at any moment, whatever is tried at once, killed half-way, or done to the entries later."""

import json
import os
import signal
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import promoters
import pytest
import seaweed
from promoters import draft

from mobilevd.errors import IntegrityError, PromotionError
from mobilevd.registry import ledger as ledgers
from mobilevd.registry.ledger import Entry, Ledger, champion, standing, until

UNTIL_WON_ON_S3 = int(os.environ.get("MOBILEVD_PROMOTIONS", "6"))  # fifty take minutes: docs/registry.md


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(str(tmp_path / "ledger"))


def switch(ledger: Ledger, version: str, **changes) -> Entry:
    return ledger.append(draft(ledger.history(), version, **changes))


class Reader:
    """Reads the ledger in a tight loop beside the switches, and keeps every different history it saw."""

    def __init__(self, ledger: Ledger):
        self.ledger, self.seen, self.reads, self.done = ledger, [], 0, threading.Event()
        self.thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        while not self.done.is_set():
            told = [entry.to_version for entry in self.ledger.history()]
            self.reads += 1
            if not self.seen or told != self.seen[-1]:
                self.seen.append(told)

    def __enter__(self) -> "Reader":
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.done.set()
        self.thread.join()


def test_an_entry_says_who_when_why_from_and_to(ledger):
    began = datetime.now(UTC)
    switch(ledger, "1")
    switch(ledger, "2", who="ada", why="lower FVD", protocol={"clips": 16})
    first, second = ledger.history()
    assert (first.from_version, second.from_version, second.to_version) == (None, "1", "2")
    assert (second.number, second.who, second.why, second.protocol) == (2, "ada", "lower FVD", {"clips": 16})
    assert (second.bundle_sha256, second.report_sha256) == ("bundle 2", "report 2")
    assert began <= first.at <= second.at <= datetime.now(UTC)
    written = json.loads((Path(ledger.address) / "00000002.json").read_text())
    assert written["at"].endswith("Z")
    assert len(written["previous_sha256"]) == 64


def test_the_champion_of_any_moment_is_known(ledger):
    before = datetime.now(UTC)
    entries = [switch(ledger, version) for version in "123"]
    assert champion(until(entries, before)) is None
    assert champion(until(entries, entries[1].at)) == "2"
    assert champion(until(entries, entries[2].at - timedelta(microseconds=1))) == "2"
    assert champion(ledger.history()) == "3"


def test_a_clock_that_goes_back_does_not_change_the_order(ledger, monkeypatch):
    first = switch(ledger, "1")

    class Slow(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime(2001, 1, 1, tzinfo=zone)

    monkeypatch.setattr(ledgers, "datetime", Slow)
    assert switch(ledger, "2").at == first.at


def test_a_rollback_takes_the_champion_off_and_the_next_one_goes_further_back(ledger):
    for version in "123":
        switch(ledger, version)
    assert standing(ledger.history()) == ["1", "2", "3"]
    switch(ledger, "2", action="rollback")
    assert standing(ledger.history()) == ["1", "2"]
    switch(ledger, "4")
    switch(ledger, "1", action="rollback")
    assert standing(ledger.history()) == ["1"]


def test_of_two_switches_from_one_state_the_second_is_told_who_won(ledger):
    wanted = [draft([], "1"), draft([], "2", who="ada")]
    ledger.append(wanted[1])
    with pytest.raises(PromotionError, match="entry 1: promote none → 2, ada"):
        ledger.append(wanted[0])
    assert [entry.to_version for entry in ledger.history()] == ["2"]


def test_a_switch_that_is_tried_again_after_its_answer_was_lost_is_made_once(ledger):
    wanted = draft([], "1")
    assert ledger.append(wanted) == ledger.append(wanted)
    assert len(ledger.history()) == 1


@pytest.mark.parametrize(
    ("damage", "number"),
    [
        (lambda folder: (folder / "00000002.json").unlink(), 2),
        (lambda folder: (folder / "00000002.json").write_text("{}"), 2),
        (lambda folder: (folder / "00000002.json").write_text((folder / "00000001.json").read_text()), 2),
        (lambda folder: _edit(folder / "00000001.json", why="another reason"), 2),
        (lambda folder: _edit(folder / "00000002.json", to_version="9"), 3),
        (lambda folder: _edit(folder / "00000003.json", from_version="9"), 3),
        (lambda folder: (folder / "00000003.json").rename(folder / "00000005.json"), 3),
        (lambda folder: (folder / "notes.txt").write_text("stray"), 4),
    ],
)
def test_a_broken_chain_is_an_error_that_names_the_entry(ledger, damage, number):
    for version in "123":
        switch(ledger, version)
    damage(Path(ledger.address))
    with pytest.raises(IntegrityError, match=f"broken at entry {number}"):
        ledger.history()
    with pytest.raises(IntegrityError, match=f"broken at entry {number}"):
        ledger.append(draft([], "4"))


def _edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_of_fifty_switches_at_once_one_wins_and_every_other_is_told(ledger):
    told = promoters.together(promoters.once, ledger.address, 50)
    [entry] = ledger.history()
    assert [number for number, message in enumerate(told) if message is None] == [int(entry.to_version)]
    assert all(entry.line in message for message in told if message)
    assert [path.name for path in Path(ledger.address).iterdir()] == ["00000001.json"]


def test_fifty_that_try_until_they_win_leave_one_line_and_a_reader_never_sees_another(ledger):
    with Reader(ledger) as reader:
        losses = promoters.together(promoters.until_won, ledger.address, 50)
    final = [entry.to_version for entry in ledger.history()]
    assert sorted(map(int, final)) == list(range(50))
    assert sum(losses) > 0
    assert reader.reads > len(reader.seen) > 2
    assert all(told == final[: len(told)] for told in reader.seen)


def test_on_s3_the_same_holds(monkeypatch):
    seaweed.use(monkeypatch)
    once, again = Ledger("s3://bucket/once"), Ledger("s3://bucket/again")
    with Reader(once) as reader:
        told = promoters.together(promoters.once, once.address, 50, seaweed.environment())
    [entry] = once.history()
    assert reader.seen == [[], [entry.to_version]]
    assert told.count(None) == 1
    assert all(entry.line in message for message in told if message)
    with Reader(again) as reader:
        promoters.together(promoters.until_won, again.address, UNTIL_WON_ON_S3, seaweed.environment())
    final = [entry.to_version for entry in again.history()]
    assert sorted(map(int, final)) == list(range(UNTIL_WON_ON_S3))
    assert all(told == final[: len(told)] for told in reader.seen)


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ("before _write_synced", "1"),
        ("after _write_synced", "1"),
        ("before _link", "1"),
        ("after _link", "2"),
        ("before _sync", "2"),
        ("after _sync", "2"),
    ],
)
def test_a_kill_at_any_point_leaves_one_champion_and_the_next_switch_works(ledger, point, expected):
    switch(ledger, "1")
    assert promoters.killed_at(point, ledger.address) == -signal.SIGKILL
    assert champion(ledger.history()) == expected
    assert switch(ledger, "3").from_version == expected


@pytest.mark.parametrize(("point", "expected"), [("before Bucket._put", "1"), ("after Bucket._put", "2")])
def test_on_s3_too_a_kill_leaves_one_champion_and_the_next_switch_works(monkeypatch, point, expected):
    seaweed.use(monkeypatch)
    ledger = Ledger(f"s3://bucket/killed/{expected}")
    switch(ledger, "1")
    assert promoters.killed_at(point, ledger.address, seaweed.environment()) == -signal.SIGKILL
    assert champion(ledger.history()) == expected
    assert switch(ledger, "3").from_version == expected
