import re
from dataclasses import replace

import pytest

from mobilevd.errors import DataError
from mobilevd.settings import Clip, Prepare
from mobilevd.video import expectations, manifest
from mobilevd.video.manifest import Row

CLIP, PREPARE = Clip(), Prepare(min_train_clips=20, min_validation_clips=4)


def row(k, side):
    origin = (f"{side}-{k}", f"{side}{k}.mp4", f"sha {side}{k}", side, False, "", 0.0)
    return Row(*origin, 7.0, 14, 512, 256, 0.02, f"pixels {side}{k}")


ROWS = [row(k, "train") for k in range(20)] + [row(k, "validation") for k in range(4)]

BROKEN = {  # clip → what is wrong with it
    "train-0": {"frames": 13},
    "train-1": {"fps": 25.0},
    "train-2": {"width": 256},
    "train-3": {"height": 512},
    "train-4": {"motion": 0.0},
    "train-5": {"pixels_sha256": "pixels validation0"},
    "train-6": {"clip_id": "train-7"},
    "train-8": {"source": "validation1.mp4"},
    "train-9": {"source": "twin_left.png"},
    "validation-2": {"source": "twin_right.png"},
    "train-10": {"source_sha256": "sha validation3"},
    "train-11": {"start_s": -1.0},
}
NAMED = {  # column → the clips that its line must name, and no others
    "frames": {"train-0"},
    "duration_s": {"train-0", "train-1"},
    "fps": {"train-1"},
    "width": {"train-2"},
    "height": {"train-3"},
    "motion": {"train-4"},
    "pixels_sha256": {"train-5", "validation-0"},
    "clip_id": {"train-7"},
    "sides_of_scene": {"train-8", "validation-1", "train-9", "validation-2"},
    "sides_of_bytes": {"train-10", "validation-3"},
    "start_s": {"train-11"},
}


def test_good_clips_pass_and_leave_a_page(tmp_path):
    page = expectations.validate(manifest.table(ROWS), CLIP, PREPARE, tmp_path / "docs")
    assert page.is_file()
    results = [p.read_text(encoding="utf-8") for p in (tmp_path / "docs" / "validations").rglob("*.html")]
    assert len(results) == 1
    assert "pixels_sha256" in results[0]


def test_every_broken_expectation_stops_the_run_and_names_its_clips(tmp_path):
    rows = [replace(r, **BROKEN.get(r.clip_id, {})) for r in ROWS]
    with pytest.raises(DataError) as error:
        expectations.validate(manifest.table(rows), CLIP, PREPARE, tmp_path / "docs")
    named = {}
    for line in str(error.value).splitlines():
        if found := re.search(r"expect_\w+: (\w+) .* in ([\w, -]+)$", line):
            named[found[1]] = set(found[2].split(", "))
    assert named == NAMED
    assert (tmp_path / "docs" / "index.html").is_file()


def test_too_few_clips_on_a_side_stop_the_run(tmp_path):
    rows = [*ROWS[:-1], row(20, "train")]
    with pytest.raises(DataError, match=r"clips_in_split .* got 3 < 4 in validation-0, validation-1, validation-2"):
        expectations.validate(manifest.table(rows), CLIP, PREPARE, tmp_path / "docs")


def test_missing_side_stops_the_run(tmp_path):
    with pytest.raises(DataError, match="split"):
        expectations.validate(manifest.table(ROWS[:20]), CLIP, PREPARE, tmp_path / "docs")


def told_of(rows, prepare, folder) -> str:
    with pytest.raises(DataError) as error:
        expectations.validate(manifest.table(rows), CLIP, prepare, folder)
    return str(error.value)


def test_leak_check_knows_scenes_as_the_recipe_names_them(tmp_path):
    pieces = [replace(r, source=f"v_{k}_g01_c{r.split}.avi") for k, r in enumerate(ROWS)]
    expectations.validate(manifest.table(pieces), CLIP, PREPARE, tmp_path / "by_name")
    apart = PREPARE.model_copy(update={"scene": r"v_\d+_g\d+"})
    expectations.validate(manifest.table(pieces), CLIP, apart, tmp_path / "apart")
    leaking = PREPARE.model_copy(update={"scene": r"_(g\d+)_"})
    assert "sides_of_scene" in told_of(pieces, leaking, tmp_path / "leaking")


def test_leak_check_tells_folders_apart_as_the_split_does(tmp_path):
    rows = [replace(r, source=f"{r.clip_id}/video.mp4") for r in ROWS]
    expectations.validate(manifest.table(rows), CLIP, PREPARE, tmp_path / "docs")
    rows[-1] = replace(rows[-1], source="train-3/video_left.mp4")
    assert "sides_of_scene" in told_of(rows, PREPARE, tmp_path / "leaking")
