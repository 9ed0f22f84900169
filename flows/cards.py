"""What a stage's card shows: figures, curves as pictures, tables, and where it came from."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from metaflow.cards import Image, Markdown, Table
from metaflow.exception import MetaflowException
from PIL import Image as Picture
from PIL import ImageSequence

from mobilevd import progress
from mobilevd.artifacts import StageRecord
from mobilevd.errors import MobileVDError
from mobilevd.secrecy import sanitised

REFRESH_S = 5.5  # the least between two pages: 5 by metaflow's default


@contextmanager
def live(card) -> Iterator[None]:
    """While the stage works, its pictures are on the card; at a failure, the reason.

    Metaflow draws no card of a task that failed; it passes over a page that is asked for within ``REFRESH_S`` of the
    last, and waits for every page but a card's first.
    """
    drawn_at = 0.0

    def draw() -> None:
        nonlocal drawn_at
        drawn_at = time.monotonic()
        card.refresh(force=True)

    def add(label: str, picture: Path) -> None:
        card.append(Image(_still_or_gif(Path(picture)), label=label))
        draw()

    try:
        with progress.shown(add):
            yield
    except Exception as error:
        said = str(error) if isinstance(error, (MobileVDError, MetaflowException)) else repr(error)
        card.append(Markdown(f"# Stopped\n```\n{sanitised(said)}\n```"))
        if not drawn_at:
            draw()
        time.sleep(max(0.0, drawn_at + REFRESH_S - time.monotonic()))
        draw()
        raise


def show(card, record: StageRecord, workdir: Path) -> None:
    """Fill the step's card from the record; pictures lie under ``workdir``."""
    card.append(Markdown(f"# {record.stage}\n{record.seconds:.0f} s · data `{record.data_md5[:12]}`"))
    if record.facts:
        card.append(Table([[name, value] for name, value in record.facts.items()], headers=["fact", "value"]))
    if record.figures:
        card.append(
            Table([[name, f"{value:.5g}"] for name, value in record.figures.items()], headers=["figure", "value"])
        )
    for name, picture in record.pictures.items():
        card.append(Image(_still_or_gif(Path(workdir) / picture), label=name))
    for name, rows in record.tables.items():
        card.append(Markdown(f"## {name}"))
        card.append(_table(rows))
    sums = [[name, artifact.uri, artifact.sha256[:12]] for name, artifact in record.artifacts.items()]
    card.append(Table(sums, headers=["artifact", "folder", "sha256"]))


def show_comparison(card, rows: list[dict], said: str) -> None:
    """This run against the champion, figure by figure, and what became of it."""
    card.append(Markdown(f"# against the champion\n{said}"))
    card.append(_table(rows))


def _table(rows: list[dict]) -> Table:
    headers = list(dict.fromkeys(key for row in rows for key in row))
    return Table([[_cell(row.get(key)) for key in headers] for row in rows], headers=headers)


def _cell(value) -> str:
    if value is None:
        return "–"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _still_or_gif(path: Path) -> bytes:
    """Cards show PNG, JPEG and GIF; an animated WebP becomes a GIF."""
    if path.suffix != ".webp":
        return path.read_bytes()
    frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(Picture.open(path))]
    stream = BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:], duration=143, loop=0)
    return stream.getvalue()
