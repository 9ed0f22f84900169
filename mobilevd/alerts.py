"""Telling people: a dead letter for every task that failed for good, and a line to ``$MOBILEVD_WEBHOOK``.

**Keeps** a webhook that does not answer hides no error and stops no run; neither letter nor body holds a secret
(``tests/test_alerts.py``). The body has a ``text``, as Slack and its like read it, and the facts beside it.
"""

import json
import logging
import os
import textwrap
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from mobilevd import remote
from mobilevd.artifacts import write_json
from mobilevd.errors import MobileVDError
from mobilevd.secrecy import sanitised, sanitised_facts

WEBHOOK, LETTERS = "MOBILEVD_WEBHOOK", "dead-letters"
PATIENCE_S = 10
log = logging.getLogger(__name__)


def tell(text: str, **facts: Any) -> bool:
    """Post to the webhook, if there is one; whether it took it. The address is a secret and is in no message."""
    try:
        return post(text, **facts)
    except (OSError, HTTPException) as error:
        log.warning("the webhook did not take the alert (%s): %s", type(error).__name__, sanitised(text))
        return False


def post(text: str, **facts: Any) -> bool:
    """Post to the webhook; False where there is none. Errors: OSError or HTTPException when it does not take it."""
    url = os.environ.get(WEBHOOK)
    if not url:
        return False
    if urlsplit(url).scheme not in ("http", "https"):
        raise OSError("not an http address")
    body = json.dumps(sanitised_facts({"text": text} | facts)).encode()
    with urlopen(Request(url, body, {"Content-Type": "application/json"}), timeout=PATIENCE_S):
        return True


def dead_letter(run: str, name: str, facts: dict[str, Any]) -> str:
    """Write why a task failed for good beside its run (a folder or ``s3://…``), and tell; returns where it lies."""
    address, facts = f"{run}/{LETTERS}/{name}.json", sanitised_facts(facts)
    if remote.is_remote(run):
        remote.write(address, (json.dumps(facts, indent=2, sort_keys=True) + "\n").encode())
    else:
        write_json(Path(address), facts)
    tell(f"{facts['task']} failed for good: {facts['error'].splitlines()[0]}", event="mobilevd.dead-letter", **facts)
    return address


def letters(runs: str) -> list[dict[str, Any]]:
    """Every dead letter of the runs under ``runs``, oldest first, with its address. Errors: MobileVDError."""
    if remote.is_remote(runs):
        names = [(at, name) for name, _, at in remote.listed(runs) if f"/{LETTERS}/" in name]
        texts = [(f"{runs}/{name}", remote.read(f"{runs}/{name}")) for _, name in sorted(names)]
    else:
        if not Path(runs).is_dir():
            allowed = "the folder of the runs"
            raise MobileVDError("There are no runs", got=runs, allowed=allowed, where="MOBILEVD_RUNS, --runs")
        paths = sorted(Path(runs).glob(f"*/*/{LETTERS}/*.json"), key=lambda path: path.stat().st_mtime)
        texts = [(str(path), path.read_bytes()) for path in paths]
    return [json.loads(text) | {"address": address} for address, text in texts]


def told(letter: dict[str, Any]) -> str:
    """A dead letter for people: when, which task, after how many attempts, why, how to go on."""
    at, attempts = datetime.fromtimestamp(letter["at"], UTC), letter["attempts"]
    head = f"{at:%Y-%m-%d %H:%M} UTC  {letter['task']}, {attempts} attempt{'s' if attempts > 1 else ''}"
    why = textwrap.indent(letter["error"], "  ")
    return f"{head}\n{why}\n  to go on: {letter['again']}\n  whole: {letter['address']}"
