"""A process that computes for another and ends with it, so that nothing is measured beside what nobody waits for.

Standard library alone: the process whose memory is measured loads this. **Keeps** a killed parent takes it along
(``tests/device/test_parent.py``).
"""

import ctypes
import os
import signal
import sys

SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h


def end_with(parent: int) -> None:
    """Kill this process when the one that started it, ``parent``, ends in whatever way: its lock is free then.

    Only Linux can; elsewhere this process computes to its end.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call above, which tells of later ends alone
        raise SystemExit("the process that this one computes for has ended")
