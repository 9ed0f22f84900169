"""Is what was found enough, and can it be? So many files may be unusable, and each side needs its clips.

**Keeps** too many files without a clip stop the run, and are named (``tests/video/test_gather.py``); what the files can
give at most is never less than what they give (``tests/video/test_quota.py``).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from pathlib import Path

from mobilevd.errors import DataError
from mobilevd.settings import Prepare
from mobilevd.video.clips import Source
from mobilevd.video.manifest import Rejected
from mobilevd.video.shards import Shard
from mobilevd.video.split import by_scene, scenes

SIDES = ("train", "validation")
AT_MOST_NAMED = 20


def check_quota(prepare: Prepare, files: int, rejected: Iterable[Rejected], sides: Set[str]) -> None:
    """Errors: DataError when too many of the files cannot be used, or no clip is left on one of the ``SIDES``."""
    rejected = list(rejected)
    check_failed(prepare, files, rejected)
    if empty := [side for side in SIDES if side not in sides]:
        raise DataError(
            f"No clip is left to {' and to '.join(empty)}",
            got=_listed(_failed(rejected)) or f"{files} files",
            allowed="usable files of at least two scenes",
            where="prepare.data, prepare.rendered",
        )


def check_failed(prepare: Prepare, files: int, rejected: Iterable[Rejected], so_far: bool = False) -> None:
    """Errors: DataError when too many of all the ``files`` cannot be used; ``so_far``: others were not looked at."""
    failed = _failed(rejected)
    if len(failed) > prepare.max_failed_share * files:
        raise DataError(
            f"{len(failed)} of {files} files cannot be used{' so far' * so_far}",
            got=_listed(failed),
            allowed=f"at most {prepare.max_failed_share:.0%} of the files",
            where="the named files, or prepare.max_failed_share",
        )


def check_plan(prepare: Prepare, plan: Shard) -> None:
    """What is certain of all files before one is read.

    Errors: DataError when too many are copies, or when a side cannot have the clips it needs even if all can be used.
    """
    check_failed(prepare, len(plan.files), plan.rejected, so_far=True)
    used = {name: plan.sides[name] for name in plan.used}
    needed = {"train": prepare.min_train_clips, "validation": prepare.min_validation_clips}
    most = at_most(prepare, used, len(plan.files))
    if few := [f"prepare.min_{side}_clips" for side in SIDES if most[side] < needed[side]]:
        photos = sum(Source(name, Path(name)).is_photo for name in used)
        raise DataError(
            "The files cannot give as many clips as are asked for",
            got=f"{_sides(most, 'at most')}, of {len(used) - photos} videos and {photos} photographs",
            allowed=_sides(needed, "at least"),
            where=", ".join(["prepare.data", "prepare.windows_per_source", "prepare.validation_share", *few]),
        )


def at_most(prepare: Prepare, sides: Mapping[str, str], files: int) -> dict[str, int]:
    """The most clips that each side can have, of these used files (name → side, "" while it is open) of so many."""
    most, kinds = dict.fromkeys(SIDES, 0), {False: {}, True: {}}
    for name, side in sides.items():
        kinds[Source(name, Path(name)).is_photo][name] = side
    for photos, kind in kinds.items():
        counted = _still_open(prepare, kind, files) if "" in kind.values() else Counter(kind.values())
        for side in SIDES:
            each = getattr(prepare.rendered, f"{side}_per_photo") if photos else prepare.windows_per_source
            most[side] += each * counted[side]
    return most


def _still_open(prepare: Prepare, names: Iterable[str], files: int) -> dict[str, int]:
    """The most files on each side, whichever the quota lets fail: those move the others' sides.

    Never more scenes are held out than of all, never fewer than of those that must be left; how large they are is open.
    Scenes are those that the names of all files tell.
    """
    sizes = sorted(Counter(scenes(names, prepare.scene).values()).values())
    may_fail = int(prepare.max_failed_share * files)
    most, least = (_held_out(prepare, count) for count in (len(sizes), max(len(sizes) - may_fail, 0)))
    return {"train": sum(sizes[least:]), "validation": sum(sizes[len(sizes) - most :])}


def _held_out(prepare: Prepare, count: int) -> int:
    """How many of so many scenes validate: the split's own count, which names do not change."""
    names = [str(number) for number in range(count)]
    return list(by_scene(dict(zip(names, names, strict=True)), prepare.validation_share).values()).count("validation")


def _sides(counts: Mapping[str, int], word: str) -> str:
    return " and ".join(f"{word} {counts[side]} {side} clips" for side in SIDES)


def _failed(rejected: Iterable[Rejected]) -> list[Rejected]:
    return [item for item in rejected if item.start_s is None]


def _listed(failed: list[Rejected]) -> str:
    more = [f"and {len(failed) - AT_MOST_NAMED} more"] if len(failed) > AT_MOST_NAMED else []
    return "\n           ".join([f"{item.source}: {item.reason}" for item in failed[:AT_MOST_NAMED]] + more)
