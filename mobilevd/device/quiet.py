"""One measurement at a time on a machine: whatever else computes would be in its times.

**Keeps** a second one waits, whichever process or run it is of, until the first ends or dies
(``tests/device/test_quiet.py``).
"""

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mobilevd.progress import say

LOCK = "mobilevd-measures.lock"


@contextmanager
def quiet(what: str) -> Iterator[None]:
    """Inside, no other process on this machine is inside too; ``what`` is told to wait where one is."""
    path = Path(tempfile.gettempdir()) / LOCK
    if not path.exists():
        path.touch(mode=0o644)
    with path.open("rb") as file:  # reading is enough for a lock, and another user's file cannot be written
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{what} waits until another measurement on this machine ends ({path})")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
