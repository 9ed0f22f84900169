"""Who trains and who validates: by scene, never by clip, and by name alone, so that the split never moves.

**Keeps** all files of a scene are on one side (``tests/video/test_split.py``); the pocket base, pretrained on the
train side of the sample set, has never seen the validation side.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

SALT = "held-out"


def split(names: Iterable[str], validation_share: float) -> dict[str, str]:
    """Map every source name to "train" or "validation".

    Names that differ only in a trailing ``_left``/``_right`` or ``_pristine``/``_distorted`` show the same scene and
    stay together. At least one scene goes to validation, and at least one to train when there are two or more.
    """
    return by_scene({name: scene(name) for name in names}, validation_share)


def by_scene(shown: Mapping[str, str], validation_share: float) -> dict[str, str]:
    """Map every name to "train" or "validation", given the scene that each name shows; else as ``split``."""
    ranked = sorted(set(shown.values()), key=_rank)
    count = min(max(1, round(validation_share * len(ranked))), max(len(ranked) - 1, 0))
    held_out = set(ranked[:count])
    return {name: "validation" if its in held_out else "train" for name, its in shown.items()}


def scenes(paths: Iterable[str], pattern: str | None = None) -> dict[str, str]:
    """Map every path inside the data folder to the scene it shows.

    ``pattern`` (a regular expression) says it where it matches: by its first group, or as a whole when it has none.
    Any other path shows what its stem names, see ``scene``; a folder that holds one scene only, under a stem that
    other folders use as well (``<id>/video.mp4``), is part of the scene's name. Of folders with several scenes
    (``720p/a.mp4``, ``720p/b.mp4``, ``1080p/a.mp4``) the files of one stem stay together.
    """
    paths, expression = list(paths), re.compile(pattern) if pattern else None
    naming = _naming([PurePosixPath(path) for path in paths])
    return {path: _told(expression, path) or _named(PurePosixPath(path), naming) for path in paths}


def scene(name: str) -> str:
    """The scene a source shows: its name without a suffix that marks another view of the same scene."""
    for suffix in ("_left", "_right", "_pristine", "_distorted"):
        name = name.removesuffix(suffix)
    return name


def _naming(paths: list[PurePosixPath]) -> set[PurePosixPath]:
    """The folders that are part of their scene's name."""
    stems, folders = defaultdict(set), defaultdict(set)
    for path in paths:
        stems[path.parent].add(path.stem)
        folders[path.stem].add(path.parent)
    alone = {folder for folder, held in stems.items() if len({scene(stem) for stem in held}) == 1}
    return {folder for folder in alone if any(len(folders[stem]) > 1 for stem in stems[folder])}


def _told(expression: re.Pattern | None, path: str) -> str | None:
    """What the expression takes of a path; nothing where it does not match, or takes no letter."""
    match = expression.search(path) if expression else None
    return match[1 if expression.groups else 0] if match else None


def _named(path: PurePosixPath, naming: set[PurePosixPath]) -> str:
    return f"{path.parent}/{scene(path.stem)}" if path.parent in naming else scene(path.stem)


def _rank(name: str) -> str:
    return hashlib.sha256(f"{SALT}:{name}".encode()).hexdigest()
