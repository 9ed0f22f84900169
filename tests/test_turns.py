"""Of many runs that start at once one goes on; a silent one is put aside after its lease, and is told."""

import itertools
import os
import time
from datetime import timedelta

import promoters
import pytest
import seaweed

from mobilevd import turns
from mobilevd.errors import MobileVDError
from mobilevd.turns import LostTurnError, Turns

LEASE_S = 1.2


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path):
    if request.param == "folder":
        return str(tmp_path / "turns"), {}
    return f"s3://bucket/turns/{tmp_path.name}-{os.getpid()}", seaweed.environment()


def take(address: str, number: int, barrier) -> bool:
    barrier.wait(60)
    return Turns(address, 1.0).take(f"run {number}") is None


def test_of_eight_schedules_at_once_one_goes_on_and_after_its_end_another_may(place):
    address, environment = place
    won = promoters.together(take, address, 8, environment)
    assert won.count(True) == 1
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        mine, line = f"run {won.index(True)}", Turns(address, 1.0)
        assert line.take(mine) is None, "a repeated attempt of the same run has its turn still"
        assert line.take("another").token == mine
        line.end(mine)
        line.end(mine)
        assert line.take("another") is None


@pytest.fixture
def line(tmp_path):
    return Turns(str(tmp_path), LEASE_S / 3600)


def test_a_run_without_a_sign_of_life_for_its_lease_is_put_aside_and_told(line):
    assert line.take("first") is None
    assert line.take("second").token == "first"
    time.sleep(LEASE_S)
    assert line.take("second") is None
    for late in (line.go_on, line.end):
        with pytest.raises(LostTurnError, match="second"):
            late("first")


def test_a_run_that_works_longer_than_its_lease_keeps_its_turn(line):
    line.take("first")
    with line.kept("first"):
        time.sleep(1.5 * LEASE_S)
        assert line.take("second").token == "first"
    with line.kept("first"), line.kept("first"):  # two tasks of one run
        time.sleep(0.7 * LEASE_S)
    assert line.take("second").token == "first"


def test_a_run_that_was_put_aside_by_force_learns_it_when_its_stage_ends(line):
    def forced_aside():
        with line.kept("first"):
            assert line.take("second", force=True) is None
            time.sleep(0.5 * LEASE_S)

    line.take("first")
    with pytest.raises(LostTurnError, match="second"):
        forced_aside()


def out_of_reach(line, monkeypatch, signs: range):
    """From now on the store takes none of these signs, counted from 0."""
    names, asked = line.objects.names, itertools.count()

    def failing() -> list[str]:
        if next(asked) in signs:
            raise MobileVDError("The store does not answer")
        return names()

    monkeypatch.setattr(line.objects, "names", failing)


def test_a_store_that_fails_for_a_while_costs_no_run_its_turn(line, monkeypatch, capsys):
    line.take("first")
    out_of_reach(line, monkeypatch, range(1, 3))
    with line.kept("first"):
        time.sleep(1.5 * LEASE_S)
        assert line.take("second").token == "first"
    assert capsys.readouterr().err.count("no sign of life was given: The store does not answer") == 1


def test_a_store_that_fails_to_the_end_is_told_after_the_stage_and_a_turn_lost_meanwhile_too(line, monkeypatch):
    def worked(*, meanwhile=lambda: None):
        with line.kept("first"):
            time.sleep(0.5 * LEASE_S)
            meanwhile()

    line.take("first")
    with monkeypatch.context() as patch:
        out_of_reach(line, patch, range(1, 99))
        with pytest.raises(MobileVDError, match="does not answer"):
            worked()
    other = Turns(line.address, LEASE_S / 3600)
    out_of_reach(line, monkeypatch, range(1, 3))
    with pytest.raises(LostTurnError, match="second"):
        worked(meanwhile=lambda: (other.take("second", force=True), time.sleep(0.5 * LEASE_S)))


def test_an_error_of_the_stage_is_not_hidden_by_the_turn(line):
    def fails():
        with line.kept("first"):
            line.take("second", force=True)
            raise ZeroDivisionError

    line.take("first")
    with pytest.raises(ZeroDivisionError):
        fails()


def test_a_sign_says_until_when_it_holds(line, monkeypatch):
    line.take("first")
    sign = line.take("second")
    assert sign.until - sign.at == line.lease
    assert sign.holds(sign.until - timedelta(seconds=0.01))
    assert not sign.holds(sign.until)
    assert turns.SIGNS_PER_LEASE > 1
