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
    """Draws as metaflow does: not when the last page is younger than a while; what is asked for first may come late."""

    asked, page, drawn_at = 0, None, 0.0

    def refresh(self, force: bool) -> None:
        assert force  # else nothing is drawn where no part is new
        if time.monotonic() - self.drawn_at >= REFRESH_S:
            self.asked, self.drawn_at = self.asked + 1, time.monotonic()
            self.page = [part.render() for part in self] if self.asked > 1 else None


@pytest.fixture
def cards(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "flows"), *sys.path])
    import cards

    monkeypatch.setattr(cards, "REFRESH_S", 1.1 * REFRESH_S)
    return cards


def fail(cards, card: Card, pictures: list[Path]) -> None:
    with cards.live(card):
        for picture in pictures:
            progress.picture("strip", picture)
        raise MetaflowException("asked to stop (SIGTERM)")


@pytest.mark.parametrize("count", [0, 1])
def test_a_task_that_fails_has_the_reason_on_its_page(cards, tmp_path, count):
    Image.new("RGB", (8, 8)).save(tmp_path / "strip.png")
    card = Card()
    with pytest.raises(MetaflowException):
        fail(cards, card, [tmp_path / "strip.png"] * count)
    assert len(card.page) == count + 1
    assert "asked to stop (SIGTERM)" in str(card.page[-1])
