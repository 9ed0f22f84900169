"""What happens, line by line with the ids of run, stage and task; JSON with ``MOBILEVD_LOG=json``, else for people.

**Keeps** every line of the project's loggers carries the ids, and none a secret (``tests/test_journal.py``).
"""

import json
import logging
import os
import sys
import time
from collections.abc import Mapping

from mobilevd.secrecy import sanitised_facts

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
        return json.dumps(sanitised_facts(told | getattr(record, "facts", {})), ensure_ascii=False)


class Words(logging.Formatter):
    """The same for people: the event, then what it adds."""

    def format(self, record: logging.LogRecord) -> str:
        event, *facts = sanitised_facts({"": record.getMessage()} | getattr(record, "facts", {})).items()
        said = ", ".join(f"{name} {value}" for name, value in facts)
        return event[1] + (f": {said}" if said else "")


def start(ids: Mapping[str, str]) -> None:
    """Send every line of the project's loggers to stderr from here on, with these ids."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(ids) if os.environ.get(FORMAT) == "json" else Words())
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)


def say(event: str, **facts: object) -> None:
    """One line: what happened, and the figures and ids that belong to it."""
    log.info(event, extra={"facts": facts})
