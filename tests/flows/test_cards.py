"""A card while its task works and at its end; the whole flow has Metaflow's own pages (``test_train_flow.py``)."""

import base64
import io
import sys
import time
from pathlib import Path

import pytest
from metaflow.exception import MetaflowException
from PIL import Image

from mobilevd import progress
from mobilevd.artifacts import Artifact, StageRecord
from mobilevd.errors import DataError

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


def fail(cards, card: Card, pictures: list[Path], error: Exception) -> None:
    with cards.live(card):
        for picture in pictures:
            progress.picture("strip", picture)
        raise error


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("kind", [MetaflowException, DataError, RuntimeError])
def test_a_task_that_fails_has_the_reason_on_its_page(cards, tmp_path, count, kind):
    Image.new("RGB", (8, 8)).save(tmp_path / "strip.png")
    card = Card()
    with pytest.raises(kind):
        fail(cards, card, [tmp_path / "strip.png"] * count, kind("asked to stop (SIGTERM)"))
    assert len(card.page) == count + 1
    assert "asked to stop (SIGTERM)" in str(card.page[-1])


def test_a_reason_is_shown_without_passwords(cards):
    card = Card()
    with pytest.raises(RuntimeError):
        fail(cards, card, [], RuntimeError("postgresql://team:hunter2@host/db does not answer"))
    assert "does not answer" in str(card.page[-1])
    assert "hunter2" not in str(card.page)


@pytest.fixture
def shown(cards, tmp_path) -> list[dict]:
    """The parts of a distillation's card, as they go to the page."""
    curves, *strip = (Image.new("RGB", (8, 8), colour) for colour in ("white", "red", "blue"))
    curves.save(tmp_path / "curves.png")
    strip[0].save(tmp_path / "strip.webp", save_all=True, append_images=strip[1:], duration=143, lossless=True)
    record = StageRecord(
        stage="distill",
        recipe_digest="r",
        data_md5="0123456789abcdef",
        figures={"distill.tflops_before": 2.0, "distill.tflops": 1.25},
        facts={"health": "no alarm"},
        pictures={"curves": "curves.png", "real above sampled": "strip.webp"},
        tables={"blocks": [{"block": "mid", "kept": True}, {"block": "up", "tflops": 0.123456789}]},
        artifacts={"network": Artifact(uri="/runs/1/distill/network", sha256="f" * 64)},
        seconds=12.3,
    )
    card = Card()
    cards.show(card, record, tmp_path)
    return [part.render() for part in card]


def test_a_stages_card_has_its_costs_before_and_after_its_facts_its_tables_and_what_it_left(shown):
    texts = [part["source"] for part in shown if part["type"] == "markdown"]
    assert texts == ["# distill\n12 s · data `0123456789ab`", "## blocks"]
    tables = {tuple(part["columns"]): part["data"] for part in shown if part["type"] == "table"}
    assert tables == {
        ("fact", "value"): [["health", "no alarm"]],
        ("figure", "value"): [["distill.tflops_before", "2"], ["distill.tflops", "1.25"]],
        ("block", "kept", "tflops"): [["mid", "True", "–"], ["up", "–", "0.12346"]],
        ("artifact", "folder", "sha256"): [["network", "/runs/1/distill/network", "f" * 12]],
    }


def test_a_stages_card_has_its_curves_and_its_strip_which_moves(shown):
    images = {part["label"]: part["src"].partition(",") for part in shown if part["type"] == "image"}
    curves, strip = (Image.open(io.BytesIO(base64.b64decode(data))) for _, _, data in images.values())
    assert list(images) == ["curves", "real above sampled"]
    assert curves.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert (strip.format, strip.n_frames) == ("GIF", 2)
