"""Names alone decide the side, scenes stay whole, and the base's held-out sources stay held out."""

from pathlib import Path

import pytest

from mobilevd.video import sample_data
from mobilevd.video.split import scene, split

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
