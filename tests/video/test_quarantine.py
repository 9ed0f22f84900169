"""A file that kills or hangs its decoder costs that file, not the run."""

import os
import signal
import time

import pytest

from mobilevd.errors import MobileVDError
from mobilevd.video.decode import Reason, UnusableError
from mobilevd.video.quarantine import Quarantine


def double(value: int) -> int:
    print("chatter of a library")
    return 2 * value


def die(number: int) -> None:
    os.kill(os.getpid(), number)


def refuse() -> None:
    raise UnusableError(Reason.TOO_SHORT, "1 s")


def hang() -> None:
    time.sleep(60)


def fail() -> None:
    raise ZeroDivisionError


@pytest.fixture
def apart(monkeypatch):
    here = os.path.dirname(__file__)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]))
    quarantine = Quarantine(patience_s=60.0)
    yield lambda name, *words: quarantine.call("test_quarantine", name, *words), quarantine
    quarantine.stop()


@pytest.mark.slow
def test_a_crash_is_one_files_and_the_next_is_served(apart):
    call, quarantine = apart
    assert call("double", 21) == 42
    for number in (signal.SIGSEGV, signal.SIGKILL):
        with pytest.raises(UnusableError, match=signal.Signals(number).name) as caught:
            call("die", int(number))
        assert caught.value.reason is Reason.CRASHED
        assert call("double", 4) == 8
    with pytest.raises(UnusableError) as caught:
        call("refuse")
    assert (caught.value.reason, caught.value.detail) == (Reason.TOO_SHORT, "1 s")
    quarantine.patience_s = 0.3
    with pytest.raises(UnusableError, match="silent"):
        call("hang")


def test_a_process_that_died_between_two_files_is_replaced(apart):
    call, quarantine = apart
    assert call("double", 1) == 2
    quarantine._process.kill()
    quarantine._process.wait()
    assert call("double", 2) == 4
    dying = quarantine._process
    dying.poll = lambda: None  # it dies just after it was looked at
    os.kill(dying.pid, signal.SIGKILL)
    time.sleep(0.2)
    with pytest.raises(UnusableError, match="SIGKILL"):
        call("double", 3)
    assert call("double", 4) == 8


def test_a_mistake_of_the_code_is_no_fault_of_the_file(apart, capfd):
    call, _ = apart
    with pytest.raises(MobileVDError, match="failed"):
        call("fail")
    assert "ZeroDivisionError" in capfd.readouterr().err
