"""One measurement at a time on a machine, or on a phone plugged into it: whatever else computes would be in its times.

**Keeps** a second one waits, whichever process or run it is of, until the first ends or dies, and what the first had
started dies with it (``tests/device/test_quiet.py``).
"""

import ctypes
import fcntl
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from mobilevd.progress import say

LOCK, PHONES_LOCK = "mobilevd-measures.lock", "mobilevd-measures-{}.lock"
SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h


@contextmanager
def quiet(what: str, phone: str = "") -> Iterator[None]:
    """Inside, no other process on this machine is inside too; ``what`` is told to wait where one is.

    With the serial of a ``phone`` only what measures on that phone waits. It is not entered twice: the second waits
    for the first, in one process as well.
    """
    path, place = lock(phone), f"the phone {phone}" if phone else "this machine"
    if not path.exists():
        path.touch(mode=0o644)
    with path.open("rb") as file:  # reading is enough for a lock, and another user's file cannot be written
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{what} waits until another measurement on {place} ends ({path})")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def lock(phone: str = "") -> Path:
    """The file that is locked; a serial may be an address with a port."""
    return Path(tempfile.gettempdir()) / (PHONES_LOCK.format(quote(phone, safe="")) if phone else LOCK)


def end_with(parent: int) -> None:
    """Kill this process when the one that started it, ``parent``, ends in whatever way: its lock is free then.

    Only Linux can; elsewhere this process computes to its end.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call above, which tells of later ends alone
        raise SystemExit("the process that this one computes for has ended")
