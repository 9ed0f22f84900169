"""The page of a comparison: a row per clip, the worst first, with strips and difference maps, and no network."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from movies import moving
from PIL import Image
from test_compare import CLIP, POOLED

from mobilevd.stages import compare, compared_page


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> compare.Compared:
    """The judged folder's clip b shows another film; a third folder has clip a alone, and one of its own."""
    home = tmp_path_factory.mktemp("videos")
    for name, seeds in {"films": {"a": 1, "b": 2}, "student": {"a": 1, "b": 9}, "teacher": {"a": 1, "z": 3}}.items():
        (home / name).mkdir()
        for stem, seed in seeds.items():
            moving(home / name / f"{stem}.mkv", seed)
    return compare.folders(home / "films", [home / "student", home / "teacher"], CLIP, POOLED)


@pytest.fixture(scope="module")
def html(made) -> str:
    return compared_page.page(made)


def pictures(html: str) -> list[np.ndarray]:
    """First frames."""
    data = re.findall(r"data:image/webp;base64,([^\"]+)", html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(d))).convert("RGB")).astype(int) for d in data]


def test_worst_clip_comes_first_with_every_folders_distance(made, html):
    assert compared_page.distances(made.real, made.others[0]).argmax() == 1
    rows = html.split("<figure>")[1:]
    assert [re.search(r"<b>(\w)</b>", row)[1] for row in rows] == ["b", "a"]
    assert re.findall(r"<span>(\w+)</span>", rows[0]) == ["real", "student"], "the teacher has no clip of this name"
    assert re.findall(r"<span>(\w+)</span>", rows[1]) == ["real", "student", "teacher"]
    told = compared_page.distances(made.real, made.others[0])[1].item()
    assert f"distance student {compared_page.gallery.text(told)}" in rows[0]
    assert "distance teacher 0" in rows[1]


def test_columns_strips_and_differences_are_pictures_of_these_clips(html):
    played, strip, difference, *second = pictures(html)
    assert played.shape == (128, 2 * 256, 3)
    assert strip.shape == (2 * 128, 5 * 256, 3)
    assert abs(played[:, :256] - played[:, 256:]).mean() > 20, "two films"
    assert difference[:, :240].max() < 10, "the real clip does not differ from itself"
    assert difference[:, 272:].mean() > 50
    assert second[2][:, 272:].mean() < 10, "a is the same film"


def test_page_needs_no_network_and_has_the_reports_figures(made, html):
    assert not re.search(r"https?:|<script|<link|url\(", html)
    assert "student against films" in html
    assert all(name in html for name in made.report.figures)


def test_page_says_its_protocol_and_what_its_columns_are(made, html, tmp_path):
    assert f"2 clips of 9 frames at 7 fps, 512x256; fingerprint {made.report.fingerprint_sha256[:12]}" in html
    assert all(str(value) in html for value in made.report.fingerprint.model_dump(exclude={"seed"}).values())
    assert "Each network beside the references" not in html, "there are none on this page"
    assert "2 clips are few: FVD is biased upwards" in html
    assert "nearest" not in html
    for stem in "xy":
        moving(tmp_path / f"{stem}.mkv", 1)
    other = compare.folders(made.real.folder, [tmp_path], CLIP, POOLED)
    assert "nearest by its features: the files are no pairs" in compared_page.page(other)


def test_clips_that_are_no_pairs_stand_beside_the_nearest_real_one(made, tmp_path):
    for stem, seed in (("x", 2), ("y", 1)):
        moving(tmp_path / f"{stem}.mkv", seed)
    other = compare.folders(made.real.folder, [tmp_path], CLIP, POOLED)
    assert [compared_page._real(other, Path(name)).stem for name in "xy"] == ["b", "a"]
    assert compared_page.distances(other.real, other.others[0]).tolist() == pytest.approx([0.0, 0.0], abs=1e-12)
