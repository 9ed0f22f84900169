"""Who trains and who validates: by source, never by clip, and by name alone, so that the split never moves.

**Keeps** the pocket base, pretrained on the train side of the sample set, has never seen the validation side.
"""

import hashlib
from collections.abc import Iterable

SALT = "held-out"


def split(names: Iterable[str], validation_share: float) -> dict[str, str]:
    """Map every source name to "train" or "validation".

    Names that differ only in a trailing ``_left``/``_right`` or ``_pristine``/``_distorted`` show the same scene and
    stay together. At least one scene goes to validation, and at least one to train when there are two or more.
    """
    names = list(names)
    scenes = sorted({scene(name) for name in names}, key=_rank)
    count = min(max(1, round(validation_share * len(scenes))), max(len(scenes) - 1, 0))
    held_out = set(scenes[:count])
    return {name: "validation" if scene(name) in held_out else "train" for name in names}


def scene(name: str) -> str:
    """The scene a source shows: its name without a suffix that marks another view of the same scene."""
    for suffix in ("_left", "_right", "_pristine", "_distorted"):
        name = name.removesuffix(suffix)
    return name


def _rank(name: str) -> str:
    return hashlib.sha256(f"{SALT}:{name}".encode()).hexdigest()
