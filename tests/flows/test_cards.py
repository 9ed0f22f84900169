"""A card while its task works. Metaflow's own cards are drawn by the whole flow (``test_train_flow.py``)."""

import sys
import time
from pathlib import Path

import pytest
from metaflow.exception import MetaflowException
from PIL import Image

from mobilevd import progress

REFRESH_S = 0.1


class Card(list):
    """Draws as metaflow does: not when the last page is younger than a while."""

    pages, drawn_at = (), 0.0

    def refresh(self) -> None:
        if time.monotonic() - self.drawn_at >= REFRESH_S:
            self.pages, self.drawn_at = (*self.pages, [part.render() for part in self]), time.monotonic()


@pytest.fixture
def cards(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "flows"), *sys.path])
    import cards

    monkeypatch.setattr(cards, "REFRESH_S", 1.1 * REFRESH_S)
    return cards


def fail(card, picture: Path, cards) -> None:
    with cards.live(card):
        time.sleep(REFRESH_S)
        progress.picture("strip", picture)
        raise MetaflowException("asked to stop (SIGTERM)")


def test_a_task_that_fails_right_after_a_picture_has_the_reason_on_its_page(cards, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "strip.png")
    card = Card()
    with pytest.raises(MetaflowException):
        fail(card, tmp_path / "strip.png", cards)
    first, second, last = card.pages
    assert (first, len(second)) == ([], 1)
    assert "asked to stop (SIGTERM)" in str(last[-1])
