"""One measurement at a time on a machine, or on a phone plugged into it: whatever else computes would be in its times.

**Keeps** a second one waits, whichever process or run it is of, until the first ends or dies
(``tests/device/test_quiet.py``).
"""

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from mobilevd.progress import say

LOCK, PHONES_LOCK = "mobilevd-measures.lock", "mobilevd-measures-{}.lock"


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
