"""Long work says how far it is: a bar in a terminal, plain lines elsewhere; and shows pictures to whoever looks."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
EVERY_S = 10.0
_shows: list[Callable[[str, Path], object]] = []


def track(iterable: Iterable[T], total: int | None, label: str) -> Iterator[T]:
    """Yield every item of ``iterable`` and show how many of ``total`` are done under ``label``.

    On a terminal this is a bar on stderr; elsewhere a line each 10 s, and each tenth of ``total`` that was slow enough
    to be worth one (1 s since the last line), and one line at the end, with rate and time left.
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


@contextmanager
def shown(show: Callable[[str, Path], object]) -> Iterator[None]:
    """Inside, pictures that long work makes on its way go to ``show(label, path)``: a card's page, say."""
    _shows.append(show)
    try:
        yield
    finally:
        _shows.remove(show)


def picture(label: str, path: Path) -> None:
    """Show a picture to whoever looks."""
    for show in _shows:
        show(label, path)


def say(line: str) -> None:
    """One line on stderr, without breaking a bar."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr, flush=True)


def _say(label: str, done: int, total: int | None, seconds: float) -> None:
    of = f"/{total}" if total is not None else ""
    rate = f", {done / seconds:.3g}/s" if done and seconds > 0 else ""
    left = f", {seconds / done * (total - done):.0f} s left" if done and total is not None and done < total else ""
    say(f"{label}: {done}{of} ({seconds:.0f} s{rate}{left})")
