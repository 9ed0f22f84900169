"""What happens, line by line with the ids of run, stage and task; JSON with ``MOBILEVD_LOG=json``, else for people.

**Keeps** every line of the project's loggers carries the ids, and none an address's password
(``tests/test_journal.py``).
"""

import json
import logging
import os
import re
import sys
import time
from collections.abc import Mapping

FORMAT = "MOBILEVD_LOG"
log = logging.getLogger("mobilevd")


class Lines(logging.Formatter):
    """One JSON object a record: time, level, event, the ids, and what the record adds."""

    def __init__(self, ids: Mapping[str, str]):
        super().__init__()
        self.ids = dict(ids)

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        told = {"at": at, "level": record.levelname.lower(), "event": record.getMessage(), **self.ids}
        return _without_passwords(json.dumps(told | getattr(record, "facts", {}), ensure_ascii=False, default=str))


class Words(logging.Formatter):
    """The same for people: the event, then what it adds."""

    def format(self, record: logging.LogRecord) -> str:
        facts = ", ".join(f"{name} {value}" for name, value in getattr(record, "facts", {}).items())
        return _without_passwords(record.getMessage() + (f": {facts}" if facts else ""))


def start(ids: Mapping[str, str]) -> None:
    """Send every line of the project's loggers to stderr from here on, with these ids."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(ids) if os.environ.get(FORMAT) == "json" else Words())
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)


def say(event: str, **facts: object) -> None:
    """One line: what happened, and the figures and ids that belong to it."""
    log.info(event, extra={"facts": facts})


def _without_passwords(text: str) -> str:
    return re.sub(r"(?<=://)[^/\s\"]*@", "", text)
