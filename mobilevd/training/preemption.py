"""SIGTERM, as a spot machine sends it before it goes: remembered, so that the training can save and end by itself.

**Keeps** a training that was asked to stop saves after the step it is in, and continues there
(``tests/training/test_kills.py``).
"""

import signal
import threading

from mobilevd.errors import MobileVDError


class PreemptedError(MobileVDError):
    """The training was asked to stop and saved; run again, it goes on."""


class Preemption:
    """Inside ``with``, SIGTERM sets ``asked`` instead of ending the process (in the main thread alone)."""

    def __init__(self):
        self.asked = False

    def __enter__(self) -> "Preemption":
        self._here = threading.current_thread() is threading.main_thread()
        if self._here:
            self._before = signal.signal(signal.SIGTERM, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        if self._here:
            signal.signal(signal.SIGTERM, self._before)

    def _remember(self, *_: object) -> None:
        self.asked = True
