"""The gallery page: everything is in it, nothing is fetched by it, and no text of a record becomes markup."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from mobilevd.errors import IntegrityError
from mobilevd.evaluation.gallery import Clip, page, text

GATES = [
    {
        "metric": "student.fvd",
        "value": 812.5,
        "limit": 900.0,
        "relation": "at most 1.5 x teacher.fvd",
        "passed": True,
        "reason": "812.5 is at most 900",
        "why": "one step must do",
    },
    {
        "metric": "student.motion",
        "value": None,
        "limit": 0.5,
        "relation": "at least 0.5",
        "passed": False,
        "reason": "student.motion is NaN",
        "why": "",
    },
]
SCORES = [{"network": "real", "fvd": 0.0}, {"network": "student", "fvd": 812.5}]
COSTS = [{"stage": "base", "tflops": 0.0721}, {"stage": "funnel", "tflops": 0.0376}]


class Reader(HTMLParser):
    """Tags with their attributes and the visible words, and whether every tag was closed in order."""

    VOID = ("meta", "img")

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and self.open[-1] != "style":
            self.words.append(data.strip())


def webp(seed: int) -> bytes:
    frames = np.random.default_rng(seed).integers(0, 255, (3, 8, 32, 3), dtype=np.uint8)
    first, *others = [Image.fromarray(frame) for frame in frames]
    stream = io.BytesIO()
    first.save(stream, "WEBP", save_all=True, append_images=others, duration=143, loop=0, lossless=True)
    return stream.getvalue()


def written(**changes) -> str:
    clips = [Clip("near", "", ["real", "student"], webp(1), 1.0), Clip("far", "", ["real", "student"], webp(2), 9.0)]
    given = {"title": "run", "verdict": "rejected", "gates": GATES, "scores": SCORES, "costs": COSTS, "clips": clips}
    return page(**(given | changes))


def test_every_figure_and_reason_is_on_the_page():
    words = Reader(written()).words
    for expected in ("812.5", "900", "student.motion is NaN", "one step must do", "0.0721", "0.0376", "rejected"):
        assert any(expected in word for word in words), expected
    assert "1 of 2 gates passed" in words


def test_gate_that_is_undecided_says_so_and_counts_as_not_passed():
    open_gate = GATES[1] | {"status": "undecided", "reason": "about 64 clips would decide"}
    words = Reader(written(gates=[GATES[0], open_gate])).words
    assert "undecided" in words
    assert "1 of 2 gates passed" in words


def test_page_is_well_formed_and_names_its_columns():
    reader = Reader(written())
    assert reader.open == []
    assert reader.words.count("student") == 1 + 2  # its score, and a label over each of two clips


def test_page_asks_nothing_of_a_network_and_runs_no_script():
    html = written()
    assert not re.search(r"(?:https?:)?//|url\(|<script|@import", html)
    reader = Reader(html)
    sources = [attrs[key] for _, attrs in reader.tags for key in ("src", "href") if key in attrs]
    assert sources
    assert all(source.startswith("data:image/webp;base64,") for source in sources)
    assert any("default-src 'none'" in attrs.get("content", "") for tag, attrs in reader.tags if tag == "meta")


def test_embedded_clips_still_play():
    sources = [attrs["src"] for tag, attrs in Reader(written()).tags if tag == "img"]
    for source in sources:
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as picture:
            assert (picture.format, picture.n_frames) == ("WEBP", 3)


def test_worst_clip_comes_first_and_clips_without_distance_last_in_their_order():
    clips = [Clip(name, "", ["real"], webp(0), far) for name, far in (("a", None), ("b", 1.0), ("c", 9.0), ("d", None))]
    words = Reader(written(clips=clips)).words
    assert [word for word in words if word in ("a", "b", "c", "d")] == ["c", "b", "a", "d"]


def test_no_text_of_a_record_becomes_markup():
    evil = "<script>alert(1)</script>\"'&"
    gates = [{**GATES[0], "metric": evil, "relation": evil, "reason": evil, "why": evil}]
    clips = [Clip(evil, evil, [evil], webp(0), 1.0)]
    table = [{evil: evil, "fvd": evil}]
    reader = Reader(written(title=evil, verdict=evil, gates=gates, scores=table, costs=table, clips=clips))
    assert not [tag for tag, _ in reader.tags if tag == "script"]
    assert reader.open == []
    assert sum(evil in word for word in reader.words) >= 10


def test_a_run_without_clips_has_no_empty_section():
    assert "Clips" not in Reader(written(clips=[])).words


def test_bytes_that_are_no_webp_are_refused():
    with pytest.raises(IntegrityError, match="The clip near is no WebP"):
        written(clips=[Clip("near", "", ["real"], b"GIF89a" + bytes(20))])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (True, "yes"),
        (float("nan"), "not a number"),
        (float("-inf"), "infinite"),
        (14, "14"),
        (1685.3, "1\u202f685"),
        (0.98765, "0.9877"),
        (0.0000123, "1.23e-05"),
        ("int8", "int8"),
    ],
)
def test_cells_read_as_people_write_numbers(value, shown):
    assert text(value) == shown
