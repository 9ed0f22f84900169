"""Long work says how far it is: a bar in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
EVERY_S = 10.0


def track(iterable: Iterable[T], total: int | None, label: str) -> Iterator[T]:
    """Yield every item of ``iterable`` and show how many of ``total`` are done under ``label``.

    On a terminal this is a bar on stderr; elsewhere a line each 10 s, and each tenth of ``total`` that was slow enough
    to be worth one (1 s since the last line), and one line at the end.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(iterable, total=total, desc=label, dynamic_ncols=True)
    else:
        yield from _plain(iterable, total, label)


def _plain(iterable: Iterable[T], total: int | None, label: str) -> Iterator[T]:
    started = said_at = time.monotonic()
    said, done = 0, 0
    for item in iterable:
        yield item
        done += 1
        now = time.monotonic()
        tenth = total is not None and (done - said) * 10 >= total and now - said_at >= 1.0
        if (tenth or now - said_at >= EVERY_S) and done != total:
            _say(label, done, total, now - started)
            said, said_at = done, now
    _say(label, done, total, time.monotonic() - started)


def _say(label: str, done: int, total: int | None, seconds: float) -> None:
    of = f"/{total}" if total is not None else ""
    print(f"{label}: {done}{of} ({seconds:.0f} s)", file=sys.stderr, flush=True)
