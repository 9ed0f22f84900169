"""Names alone decide the side, scenes stay whole, and the base's held-out sources stay held out."""

from pathlib import Path

import pytest

from mobilevd.video import sample_data
from mobilevd.video.split import by_scene, scene, scenes, split

NAMES = [f"clip{k:02d}" for k in range(40)]


def held(names, share) -> set[str]:
    return {name for name, side in split(names, share).items() if side == "validation"}


def test_every_name_gets_one_of_two_sides():
    sides = split(NAMES, 0.25)
    assert list(sides) == NAMES
    assert set(sides.values()) == {"train", "validation"}
    assert len(held(NAMES, 0.25)) == 10


def test_order_and_repetition_of_names_decide_nothing():
    assert split(NAMES[::-1], 0.25) == split(NAMES, 0.25)
    assert held([*NAMES, *NAMES], 0.25) == held(NAMES, 0.25)


def test_a_new_name_never_brings_a_training_source_before_a_held_out_one():
    for newcomer in ("a", "b", "c", "d"):
        assert held([*NAMES, newcomer], 0.25) - {newcomer} <= held(NAMES, 0.25)


@pytest.mark.parametrize(("left", "right"), [("_left", "_right"), ("_pristine", "_distorted"), ("", "_left")])
def test_views_of_one_scene_stay_together(left, right):
    names = [name + view for name in NAMES for view in (left, right)]
    sides = split(names, 0.3)
    assert all(sides[name + left] == sides[name + right] for name in NAMES)
    assert set(sides.values()) == {"train", "validation"}


def test_view_is_told_by_the_end_of_the_name_alone():
    assert scene("street_left") == scene("street_right") == "street"
    assert scene("left_street") == "left_street"
    assert scene("street_leftover") == "street_leftover"


@pytest.mark.parametrize(("count", "share"), [(2, 0.001), (2, 0.999), (3, 0.01), (40, 0.999)])
def test_both_sides_get_something_when_there_are_two_scenes(count, share):
    assert set(split(NAMES[:count], share).values()) == {"train", "validation"}


def test_single_scene_is_trained_on_and_none_is_no_error():
    assert split(["only_left", "only_right"], 0.5) == {"only_left": "train", "only_right": "train"}
    assert split([], 0.5) == {}


def test_what_the_pocket_base_never_saw_is_held_out_for_ever():
    """The names of pocket/README.md; another salt or hash would let the base be judged on what it learned from."""
    stems = {kind: [Path(p).stem for p in _sample_paths() if p.startswith(kind)] for kind in ("photos", "videos")}
    assert held(stems["photos"], 0.3) == {"camera", "chelsea", "coins", "rocket"}
    assert held(stems["videos"], 0.3) == {"carphone_pristine"}


def _sample_paths() -> list[str]:
    return [sample.path for samples in sample_data.FILES.values() for sample in samples]


UCF = [f"Archery/v_Archery_g{group:02d}_c{piece:02d}.avi" for group in range(1, 9) for piece in range(1, 8)]
DETECTED = [f"{film}-Scene-{cut:03d}.mp4" for film in ("holiday", "wedding", "match") for cut in range(1, 9)]


@pytest.mark.parametrize(
    ("names", "pattern", "told"),
    [
        (UCF, r"v_\w+_g\d+", "v_Archery_g01"),
        (UCF, r"_(g\d+)_", "g01"),
        (DETECTED, r"^(.*)-Scene-\d+", "holiday"),
        ([f"talk{k}_part{part}.mp4" for k in range(5) for part in range(3)], r"(.*)_part", "talk0"),
    ],
)
def test_pieces_of_one_video_stay_together_when_the_recipe_says_which_they_are(names, pattern, told):
    shown = scenes(names, pattern)
    assert shown[names[0]] == told
    sides = by_scene(shown, 0.4)
    assert all(sides[a] == sides[b] for a in names for b in names if shown[a] == shown[b])
    assert set(sides.values()) == {"train", "validation"}
    unaided = by_scene(scenes(names), 0.4)
    assert any(unaided[a] != unaided[b] for a in names for b in names if shown[a] == shown[b]), "it is what leaked"


def test_path_that_the_expression_does_not_match_or_takes_nothing_of_names_its_scene_itself():
    names = ["v_Archery_g01_c01.avi", "street_left.png", "street_right.png", "g_c01.avi"]
    assert scenes(names, r"g(\d*)_c") == dict(zip(names, ["01", "street", "street", "g_c01"], strict=True))
    assert scenes(["ab.mp4", "b.mp4"], "(a)?b") == {"ab.mp4": "a", "b.mp4": "b"}


def test_the_folder_names_the_scene_where_every_folder_has_a_file_of_one_name():
    names = [f"{k:04d}/video.mp4" for k in range(20)]
    assert len(set(scenes(names).values())) == 20
    assert set(by_scene(scenes(names), 0.25).values()) == {"train", "validation"}
    views = ["0001/video_left.mp4", "0001/video_right.mp4", "0002/video_left.mp4", "0002/video.mp4"]
    shown = scenes([*names, *views])
    assert {shown[view] for view in views} == {shown["0001/video.mp4"], shown["0002/video.mp4"]}


def test_files_of_one_name_stay_together_in_folders_that_hold_several_scenes():
    names = [f"{size}/{name}.mp4" for size in ("720p", "1080p") for name in "abc"]
    shown = scenes([*names, "b_left.mp4", "deep/b_right.mp4"])
    assert all(shown[f"720p/{name}.mp4"] == shown[f"1080p/{name}.mp4"] == name for name in "abc")
    assert shown["b_left.mp4"] == shown["deep/b_right.mp4"] == "b", "other stems, wherever they lie"


def test_folders_decide_nothing_where_no_name_comes_twice():
    for paths in (_sample_paths(), [f"{name}.mp4" for name in NAMES], ["films/only.mp4"]):
        assert scenes(paths) == {path: scene(Path(path).stem) for path in paths}
