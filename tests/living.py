"""Whether a process ends in time that is no child of this one, by Linux's own list."""

import time
from pathlib import Path


def ends(pid: str, within_s: float = 20.0) -> bool:
    """Wait for the end of the process ``pid``; False when it still runs after ``within_s``."""
    until = time.monotonic() + within_s
    while runs(pid):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def runs(pid: str) -> bool:
    """A process that has ended stays listed where nobody collects it, as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
