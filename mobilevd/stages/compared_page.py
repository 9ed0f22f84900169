"""The page of ``mobilevd evaluate``: rows are clips, the worst first; columns play in step; strips, difference maps.

**Keeps** one file that needs no network (``tests/stages/test_compared_page.py``). **Axes** clip F 3 H W.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobilevd.evaluation import gallery, report
from mobilevd.stages import montage
from mobilevd.stages.compare import Compared, Side, first_clip

ROWS = 24  # clips on a page
FIGURES = ("energy", "flicker", "first_frame_copy_rate", "loop_score", "blank_share")


def page(made: Compared) -> str:
    """The page as HTML: the judged folder's figures, then its worst clips by their distance to the real ones."""
    apart = [dict(zip(side.names, distances(made.real, side).tolist(), strict=True)) for side in made.others]
    worst = sorted(apart[0], key=apart[0].__getitem__, reverse=True)[:ROWS]
    shown = [_clip(made, name, [of_side.get(name) for of_side in apart]) for name in worst]
    title = f"{_label(made.others[0])} against {_label(made.real)}"
    protocol = made.report.fingerprint.model_dump(mode="json")
    return gallery.page(title, None, [], _scores(made), [], shown, protocol, _leads(made))


def distances(real: Side, side: Side) -> Tensor:
    """Each clip's squared distance of features to the real clip of its name, or to the nearest one without pairs."""
    if side.names == real.names:
        return (side.features - real.features).square().sum(1)
    return torch.cat([torch.cdist(one, real.features).square().amin(1) for one in side.features.split(256)])


def _leads(made: Compared) -> dict[str, str]:
    judged, real = _label(made.others[0]), _label(made.real)
    scores = f"{judged} against {real}; low and high end a figure's 95 % interval over clips. "
    scores += " ".join(f"{note[:1].upper()}{note[1:]}." for note in report.notes(made.report))
    stands = "" if made.paired else " The real clip is the one that is nearest by its features: the files are no pairs."
    return {"Scores": scores, "Clips": f"All columns of a clip play in step.{stands}"}


def _clip(made: Compared, name: Path, apart: list[float | None]) -> gallery.Clip:
    """The real clip and every folder's clip of this name, with their distances."""
    columns, told = {"real": first_clip(_real(made, name), made.clip)}, {}
    for side, distance in zip(made.others, apart, strict=True):
        if distance is not None:
            columns[_label(side)] = first_clip(side.paths[side.names.index(name)], made.clip)
            told[_label(side)] = distance
    return montage.shown(name.as_posix(), columns, made.clip.fps, told, _label(made.others[0]))


def _real(made: Compared, name: Path) -> Path:
    judged = made.others[0]
    k = judged.names.index(name)
    apart = (made.real.features - judged.features[k]).square().sum(1)
    return made.real.paths[k if made.paired else int(apart.argmin())]


def _scores(made: Compared) -> list[dict[str, Any]]:
    """A row per figure of the report."""
    return [
        {"figure": report.label(name, one), "value": one.value, "low": one.low, "high": one.high, "unit": one.unit}
        for name, one in made.report.figures.items()
    ]


def _label(side: Side) -> str:
    return side.folder.resolve().name
