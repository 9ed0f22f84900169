"""Is what was found enough? So many files may be unusable, and each side needs clips.

**Keeps** too many files without a clip stop the run, and are named (``tests/video/test_gather.py``).
"""

from collections.abc import Iterable, Set

from mobilevd.errors import DataError
from mobilevd.settings import Prepare
from mobilevd.video.manifest import Rejected

SIDES = ("train", "validation")
AT_MOST_NAMED = 20


def check_quota(prepare: Prepare, files: int, rejected: Iterable[Rejected], sides: Set[str]) -> None:
    """Errors: DataError when too many of the files cannot be used, or no clip is left on one of the ``SIDES``."""
    failed = [item for item in rejected if item.start_s is None]
    more = [f"and {len(failed) - AT_MOST_NAMED} more"] if len(failed) > AT_MOST_NAMED else []
    listed = "\n           ".join([f"{item.source}: {item.reason}" for item in failed[:AT_MOST_NAMED]] + more)
    if len(failed) > prepare.max_failed_share * files:
        raise DataError(
            f"{len(failed)} of {files} files cannot be used",
            got=listed,
            allowed=f"at most {prepare.max_failed_share:.0%} of the files",
            where="the named files, or prepare.max_failed_share",
        )
    if empty := [side for side in SIDES if side not in sides]:
        raise DataError(
            f"No clip is left to {' and to '.join(empty)}",
            got=listed or f"{files} files",
            allowed="usable files of at least two scenes",
            where="prepare.data, prepare.rendered",
        )
