"""Two folders of videos, any codec, measured against each other: ``mobilevd evaluate``."""

from pathlib import Path

import torch
from torch import Tensor

from mobilevd.errors import DataError
from mobilevd.evaluation import fingerprint, i3d, intervals, motion, report
from mobilevd.evaluation.fingerprint import Fingerprint
from mobilevd.evaluation.report import Figure, Report
from mobilevd.params import Clip
from mobilevd.video import clips
from mobilevd.video.decode import UnusableError

SIZE = Clip()
PREPROCESSING = "tf-reference"
UNITS = {"flicker": "full scale per frame²", "colour_entropy": "bit"}


def folders(real: Path, generated: Path, frames: int, fps: float) -> Report:
    """FVD, KVD and motion of the first clip of every video; every file must be usable.

    Files of the same relative path without its ending are pairs, made from one input: when all are, intervals are over
    pairs and ``input_adherence`` is measured. Errors: DataError.
    """
    clip = Clip(frames=frames, fps=fps, width=SIZE.width, height=SIZE.height)
    paths = {side: _videos(folder) for side, folder in (("real", real), ("generated", generated))}
    videos = {side: torch.stack([_first_clip(path, clip) for path in files]) for side, files in paths.items()}
    protocol, net = _protocol(videos, clip), i3d.load()
    made = i3d.features(videos["generated"], net, PREPROCESSING, progress="features generated")
    kept = fingerprint.features(
        protocol, lambda: i3d.features(videos["real"], net, PREPROCESSING, progress="features real")
    )
    paired = _names(paths["real"], real) == _names(paths["generated"], generated)
    return report.make(protocol, _distances(kept, made, paired) | _motion(videos, paired))


def row(made: Report) -> dict[str, float | dict]:
    """The report as one flat row: every figure under its name, the ends of the intervals of FVD and KVD beside them."""
    flat: dict[str, float | dict] = {}
    for name, figure in made.figures.items():
        ends = {} if figure.low is None else {f"{name}_low": figure.low, f"{name}_high": figure.high}
        flat |= {name: figure.value} | ends
    return flat | {"fingerprint": made.fingerprint.model_dump(mode="json")}


def table(made: Report) -> list[dict[str, float | str | None]]:
    """A row per figure, for people, and the protocol's digest."""
    rows = [{"figure": name} | figure.model_dump(exclude={"measured"}) for name, figure in made.figures.items()]
    protocol = {"figure": "fingerprint", "value": made.fingerprint_sha256[:12], "unit": "", "low": None, "high": None}
    return [*rows, protocol]


def _distances(real: Tensor, made: Tensor, paired: bool) -> dict[str, Figure]:
    figures = {}
    for name in ("fvd", "kvd"):
        seeded = torch.Generator().manual_seed(0)
        found = intervals.interval(real, made, name, paired=paired, generator=seeded)
        figures[name] = Figure(value=found.value, unit="", low=found.low, high=found.high)
    if min(len(real), len(made)) >= intervals.MIN_DRAWN:
        line = intervals.curve(real, made, paired=paired, generator=torch.Generator().manual_seed(0))
        figures["fvd_extrapolated"] = Figure(value=line.extrapolated, unit="", measured=False)
    return figures | {"real_clips": Figure(value=len(real), unit="clips")}


def _motion(videos: dict[str, Tensor], paired: bool) -> dict[str, Figure]:
    figures = motion.figures(videos["generated"], videos["real"], paired)
    return {name: Figure(value=value, unit=UNITS.get(name, "")) for name, value in figures.items()}


def _protocol(videos: dict[str, Tensor], clip: Clip) -> Fingerprint:
    """Nothing was sampled here, so the protocol states no seed."""
    return Fingerprint(
        real=fingerprint.digest_of_clips(videos["real"]),
        extractor=i3d.CHECKPOINT_SHA256,
        sampler="files",
        clips=len(videos["generated"]),
        **clip.model_dump(),
        resize=PREPROCESSING,
        crop=f"centre, to {clip.width}:{clip.height}",
        seed=None,
        dtype="float32",
    )


def _videos(folder: Path) -> list[Path]:
    paths = sorted(p for p in Path(folder).rglob("*") if p.is_file() and not p.name.startswith("."))
    if len(paths) < 2:
        raise DataError("Too few videos to compare", got=f"{len(paths)} in {folder}", allowed="two or more")
    return paths


def _names(paths: list[Path], folder: Path) -> list[Path]:
    return [path.relative_to(folder).with_suffix("") for path in paths]


def _first_clip(path: Path, clip: Clip) -> Tensor:
    try:
        return next(clips.windows(path, clip, at_most=1))
    except UnusableError as error:
        raise DataError("A video cannot be used", got=f"{path}: {error}", where="take it out of the folder") from error
