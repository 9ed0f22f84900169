"""Decoding in a process of its own: a file that crashes or hangs the decoder is left out, and the run goes on.

**Keeps** what the process answers is what decoding here gives; a crash is that file's alone
(``tests/video/test_quarantine.py``). One process serves all files until one of them kills it.
"""

import atexit
import importlib
import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from functools import cache
from typing import Any

from mobilevd.errors import MobileVDError
from mobilevd.video.decode import Reason, UnusableError

PATIENCE_S = 1800.0


class Quarantine:
    """A process that calls functions of this package by name, one after the other, on plain values."""

    def __init__(self, patience_s: float = PATIENCE_S):
        self.patience_s, self._process = patience_s, None

    def call(self, module: str, function: str, *words: Any) -> Any:
        """What ``function`` of ``module`` returns for these words (all JSON).

        Errors: UnusableError when it raises that, or its process is killed or silent; MobileVDError when it fails.
        """
        process = self._asked(json.dumps([module, function, words]).encode() + b"\n")
        answered = select.select([process.stdout], [], [], self.patience_s)[0]
        line = process.stdout.readline() if answered else b""
        if not line:
            raise self._ended(hung=not answered)
        told = json.loads(line)
        if "unusable" in told:
            raise UnusableError(Reason(told["unusable"][0]), told["unusable"][1])
        return told["returned"]

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _asked(self, line: bytes) -> subprocess.Popen:
        """The process, sent the line; one that died after its last answer is replaced."""
        if self._process is not None and self._process.poll() is not None:
            self.stop()
        process = self._process or self._start()
        with suppress(BrokenPipeError):  # it dies just now, which its missing answer tells
            process.stdin.write(line)
            process.stdin.flush()
        return process

    def _start(self) -> subprocess.Popen:
        command = [sys.executable, "-m", __spec__.name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self._process

    def _ended(self, hung: bool) -> Exception:
        process = self._process
        code = None if hung else process.wait()
        self.stop()
        if code is not None and code >= 0:
            return MobileVDError("The process that decodes failed", got=f"code {code}", where="its traceback above")
        how = f"silent for {self.patience_s:g} s" if hung else signal.Signals(-code).name
        return UnusableError(Reason.CRASHED, how)


@cache
def shared() -> Quarantine:
    """The one process of this program."""
    found = Quarantine()
    atexit.register(found.stop)
    return found


def _serve() -> None:
    """Answer on what was stdout; whatever libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        module, function, words = json.loads(line)
        try:
            told = {"returned": getattr(importlib.import_module(module), function)(*words)}
        except UnusableError as error:
            told = {"unusable": [error.reason.value, error.detail]}
        answers.write(json.dumps(told).encode() + b"\n")


if __name__ == "__main__":
    _serve()
