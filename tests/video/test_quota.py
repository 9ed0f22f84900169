"""What files can give at most, known before one is read, is never less than what they give."""

import random
from pathlib import Path

import pytest

from mobilevd.errors import DataError
from mobilevd.settings import Prepare, Rendered
from mobilevd.video import clips, quota, shards
from mobilevd.video.clips import Source
from mobilevd.video.manifest import Rejected

RENDERED = Rendered(train_per_photo=5, validation_per_photo=4)
PREPARE = Prepare(windows_per_source=2, validation_share=0.3, max_failed_share=0.2, rendered=RENDERED)


def sources(names) -> list[Source]:
    return [Source(name, Path(name)) for name in names]


def given(prepare: Prepare, names) -> dict[str, int]:
    """The clips of each side when every one of these files gives all it can."""
    found = dict.fromkeys(quota.SIDES, 0)
    for name, side in clips.sides(sources(names), prepare.validation_share, prepare.scene).items():
        photo = Source(name, Path(name)).is_photo
        found[side] += getattr(prepare.rendered, f"{side}_per_photo") if photo else prepare.windows_per_source
    return found


def layout(rng: random.Random) -> list[str]:
    """Videos and photographs of scenes with one to five views."""
    kinds = [(f"{rng.choice('vw')}{scene}", rng.choice((".mp4", ".png")), rng.randint(1, 5)) for scene in range(9)]
    return [f"{scene}-{view}{suffix}" for scene, suffix, views in kinds for view in range(views)]


@pytest.mark.parametrize("seed", range(8))
def test_no_choice_of_failing_files_gives_a_side_more_than_was_said_to_be_the_most(seed):
    rng, prepare = random.Random(seed), PREPARE.model_copy(update={"scene": "(.*)-"})
    names = layout(rng)
    most = quota.at_most(prepare, dict.fromkeys(names, ""), len(names))
    for _ in range(300):
        failing = rng.sample(names, rng.randint(0, int(prepare.max_failed_share * len(names))))
        found = given(prepare, set(names) - set(failing))
        assert all(found[side] <= most[side] for side in quota.SIDES), failing


def test_the_most_is_exact_where_every_file_is_a_scene_and_none_may_fail():
    names, strict = [f"v{k}.mp4" for k in range(10)] + ["p.png", "q.png"], {"max_failed_share": 0.0}
    most = quota.at_most(PREPARE.model_copy(update=strict), dict.fromkeys(names, ""), len(names))
    assert most == given(PREPARE, names) == {"train": 19, "validation": 10}


def test_sides_that_are_settled_are_counted_as_they_are():
    sides = {"a.mp4": "train", "b.mp4": "train", "c.mp4": "validation", "p.png": "validation"}
    assert quota.at_most(PREPARE, sides, 4) == {"train": 4, "validation": 6}


def test_files_that_are_just_enough_pass_and_one_clip_more_is_refused():
    plan = shards.taken(shards.plan({f"v{k}.mp4": "" for k in range(10)}, PREPARE))
    enough = {"min_train_clips": 16, "min_validation_clips": 6}  # three of ten are held out, two where two fail
    quota.check_plan(PREPARE.model_copy(update=enough), plan)
    for side in quota.SIDES:
        asked = enough | {f"min_{side}_clips": enough[f"min_{side}_clips"] + 1}
        with pytest.raises(DataError, match="at most 16 train clips and at most 6 validation clips, of 10 videos"):
            quota.check_plan(PREPARE.model_copy(update=asked), plan)


def test_no_file_at_all_and_a_single_scene_are_refused():
    for names in ({}, {"only.mp4": ""}):
        with pytest.raises(DataError, match="at most 0 validation clips"):
            quota.check_plan(PREPARE, shards.taken(shards.plan(names, PREPARE)))


def test_windows_that_are_left_out_are_no_failed_files():
    windows = [Rejected("v.mp4", "no motion", "", float(k)) for k in range(9)]
    quota.check_failed(PREPARE, 1, windows)
    with pytest.raises(DataError, match=r"1 of 4 files cannot be used\n  got:     v\.mp4: zero bytes"):
        quota.check_failed(PREPARE, 4, [*windows, Rejected("v.mp4", "zero bytes")])
