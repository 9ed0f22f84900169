"""Folders of videos, any codec, measured against each other: ``mobilevd evaluate``.

**Keeps** one clip in memory at a time, whatever their number (``tests/stages/test_compare.py``). **Axes** clip F 3 H W.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mobilevd.errors import DataError
from mobilevd.evaluation import fingerprint, fvd, intervals, motion, report
from mobilevd.evaluation.fingerprint import Fingerprint
from mobilevd.evaluation.report import Figure, Report
from mobilevd.progress import track
from mobilevd.settings import Clip
from mobilevd.stages.extractor import Extractor
from mobilevd.video import clips, decode
from mobilevd.video.decode import UnusableError

UNITS = {"flicker": "full scale per frame²", "colour_entropy": "bit"}
ASKED = 256  # clips of which two frames are kept, to compare them with each other's
REMEDY = "take them out of the folder, or ask for fewer --frames or a higher --fps"
KEPT = 65_536  # clips of a set whose features are kept; beyond, FVD is of sums alone and has no interval


@dataclass(frozen=True)
class Side:
    """One folder as it was read, in the order of its files: a digest over the clips, features N D, figures N each.

    ``firsts``, ``middles``: one frame each of at most 256 clips; ``sums``: what FVD needs of all of them.
    ``references``: features of what the clips would be if they stood still, or came in another order.
    """

    folder: Path
    paths: list[Path]
    digest: str
    features: Tensor
    figures: dict[str, Tensor]
    firsts: Tensor
    middles: Tensor
    sums: fvd.Sums
    references: dict[str, Tensor]

    @property
    def names(self) -> list[Path]:
        """The files by relative path without ending: what pairs them with another folder's."""
        return [path.relative_to(self.folder).with_suffix("") for path in self.paths]


@dataclass(frozen=True)
class Compared:
    """Real clips and the folders held against them, the judged one first, and its report."""

    clip: Clip
    real: Side
    others: list[Side]
    report: Report

    @property
    def paired(self) -> bool:
        """Whether the judged folder's clips belong to the real ones, one to one."""
        return self.real.names == self.others[0].names


def clip_of(frames: int, fps: float, width: int, height: int) -> Clip:
    """What is cut out of every video. Errors: DataError for a size that no network of ours makes."""
    if width % 64 or height % 64:
        raise DataError("Clips have no such size", got=f"{width}x{height}", allowed="multiples of 64 pixels")
    return Clip(frames=frames, fps=fps, width=width, height=height)


def folders(
    real: Path,
    generated: Sequence[Path],
    clip: Clip,
    extractor: Extractor,
    diversity: bool = False,
    references: bool = False,
    earlier: Report | None = None,
) -> Compared:
    """FVD, KVD and motion of the first clip of every video; every file must be usable.

    Files of the same relative path without its ending are pairs, made from one input: when all are, intervals are over
    pairs and ``input_adherence`` is measured. The report is of the first of ``generated``, with its FVD less that of
    every other folder that has the same names; ``diversity`` adds LPIPS between its clips, ``references`` the FVD of
    the real clips standing still, and with their frames shuffled. A report ``earlier`` that this one cannot be compared
    with is refused as soon as that is known: before anything is read, or once the real clips are.
    Errors: DataError; IntegrityError naming the fields in which the protocols differ.
    """
    places = ("--real", "--generated", *["--beside"] * (len(generated) - 1))
    videos = [_videos(Path(at), clip, where) for at, where in zip((real, *generated), places, strict=True)]
    planned = _of_clip(earlier.fingerprint.real if earlier else "", clip, extractor, len(videos[1]))
    _require_same(earlier, planned)
    known = _read(Path(real), videos[0], clip, extractor, True, references)
    protocol = planned.model_copy(update={"real": known.digest})
    _require_same(earlier, protocol)
    others = [
        _read(Path(folder), paths, clip, extractor, False) for folder, paths in zip(generated, videos[1:], strict=True)
    ]
    paired = known.names == others[0].names
    figures = _distances(known, others[0], paired) | _differences(known, others, paired)
    figures |= _motion(known, others[0], paired) | (_diversity(known, others[0]) if diversity else {})
    for name, features in known.references.items():
        figures[f"fvd_{name}"] = Figure(value=fvd.frechet(known.features, features), unit="")
    return Compared(clip, known, others, report.make(protocol, figures))


def row(made: Report) -> dict[str, float | dict]:
    """The report as one flat row: every figure under its name, the ends of the intervals of FVD and KVD beside them."""
    flat: dict[str, float | dict] = {}
    for name, figure in made.figures.items():
        ends = {} if figure.low is None else {f"{name}_low": figure.low, f"{name}_high": figure.high}
        flat |= {name: figure.value} | ends
    return flat | {"fingerprint": made.fingerprint.model_dump(mode="json")}


def table(made: Report) -> list[dict[str, float | str | None]]:
    """A row per figure, for people, and the protocol's digest."""
    rows = [
        {"figure": report.label(name, figure)} | figure.model_dump(exclude={"measured"})
        for name, figure in made.figures.items()
    ]
    protocol = {"figure": "fingerprint", "value": made.fingerprint_sha256[:12], "unit": "", "low": None, "high": None}
    return [*rows, protocol]


def first_clip(path: Path, clip: Clip) -> Tensor:
    """The first clip of a video. Errors: DataError naming the file that cannot be used."""
    try:
        return next(clips.windows(path, clip, at_most=1))
    except UnusableError as error:
        raise DataError("A video cannot be used", got=f"{path}: {error}", where=REMEDY) from error


def _require_same(earlier: Report | None, protocol: Fingerprint) -> None:
    if earlier:
        fingerprint.require_same(protocol.model_dump(mode="json"), earlier.fingerprint.model_dump(mode="json"))


def _read(
    folder: Path, paths: list[Path], clip: Clip, extractor: Extractor, real: bool, references: bool = False
) -> Side:
    """Clip by clip; a real clip's features are found again in later runs."""
    digests, seen, figures, frames, sums = [], [], [], [], fvd.Sums()
    seen_so: list[dict[str, Tensor]] = []
    for path in track(paths, len(paths), f"features of {folder.name}"):
        video = first_clip(path, clip)[None]
        digests.append(fingerprint.digest_of_clips(video))
        make = partial(extractor.features, video)
        one = fingerprint.features(_of_clip(digests[-1], clip, extractor), make) if real else make()
        if references and len(seen) < KEPT:
            seen_so.append(
                {name: extractor.features(video[:, order]) for name, order in _orders(clip, len(seen)).items()}
            )
        sums.add(one)
        figures.append(motion.per_clip(video))
        seen += [one] if len(seen) < KEPT else []
        frames += [video[:, [0, clip.frames // 2]]] if len(frames) < ASKED else []
    joined = {name: torch.cat([each[name] for each in figures]) for name in figures[0]}
    firsts, middles = torch.cat(frames).unbind(dim=1)
    others = {name: torch.cat([each[name] for each in seen_so]) for name in (seen_so[0] if seen_so else ())}
    return Side(folder, paths, fingerprint.digest(digests), torch.cat(seen), joined, firsts, middles, sums, others)


def _orders(clip: Clip, k: int) -> dict[str, Tensor]:
    return {"frozen": torch.zeros(clip.frames, dtype=torch.long), "shuffled": motion.shuffled(clip.frames, k)}


def _distances(real: Side, made: Side, paired: bool) -> dict[str, Figure]:
    counted = {"real_clips": Figure(value=len(real.paths), unit="clips")}
    if max(len(real.paths), len(made.paths)) > KEPT:
        return {"fvd": Figure(value=fvd.frechet_of_sums(real.sums, made.sums), unit="")} | counted
    figures = {}
    for name in ("fvd", "kvd"):
        seeded = torch.Generator().manual_seed(0)
        found = intervals.interval(real.features, made.features, name, paired=paired, generator=seeded)
        figures[name] = Figure(value=found.value, unit="", low=found.low, high=found.high)
    if min(len(real.paths), len(made.paths)) >= intervals.MIN_DRAWN:
        line = intervals.curve(real.features, made.features, paired=paired, generator=torch.Generator().manual_seed(0))
        figures["fvd_extrapolated"] = Figure(value=line.extrapolated, unit="", measured=False)
    return figures | counted


def _differences(real: Side, others: Sequence[Side], paired: bool) -> dict[str, Figure]:
    """FVD of the judged folder less that of each other one, clip by clip, where both made every clip."""
    judged, found = others[0], {}
    for other in others[1:]:
        if other.names == judged.names and len(judged.features) == len(judged.paths):
            sets = (real.features, judged.features, other.features)
            seeded = torch.Generator().manual_seed(0)
            made = intervals.difference(*sets, paired=paired, generator=seeded)
            figure = Figure(value=made.value, unit="", low=made.low, high=made.high)
            found[f"fvd_minus_{other.folder.resolve().name}"] = figure
    return found


def _motion(real: Side, made: Side, paired: bool) -> dict[str, Figure]:
    known = dict(made.figures)
    if paired:
        near = [motion.adherence(first, real.firsts, k) for k, first in enumerate(made.firsts)]
        known["input_adherence"] = torch.stack(near)
    figures = motion.summary(known, real.figures)
    return {name: Figure(value=value, unit=UNITS.get(name, "")) for name, value in figures.items()}


def _diversity(real: Side, made: Side) -> dict[str, Figure]:
    from mobilevd.evaluation import lpips

    net = lpips.load()
    own, of_real = lpips.diversity(made.middles, net), lpips.diversity(real.middles, net)
    found = {"diversity": Figure(value=own, unit="LPIPS")}
    return found | ({"diversity_ratio": Figure(value=own / of_real, unit="")} if of_real > 0 else {})


def _of_clip(digest: str, clip: Clip, extractor: Extractor, count: int = 1) -> Fingerprint:
    """Nothing was sampled here, so the protocol states no seed."""
    return Fingerprint(
        real=digest,
        extractor=extractor.sha256,
        sampler="files",
        clips=count,
        **clip.model_dump(),
        resize=extractor.resize,
        crop=f"centre, to {clip.width}:{clip.height}",
        seed=None,
        dtype="float32",
    )


def _videos(folder: Path, clip: Clip, where: str) -> list[Path]:
    """Every file of a folder, once each was looked at: two or more, and each long enough for a clip."""
    if not folder.is_dir():
        raise DataError("There is no such folder", got=str(folder), allowed="a folder of videos", where=where)
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    if len(paths) < 2:
        got = f"{len(paths)} in {folder}"
        raise DataError("Too few videos to compare", got=got, allowed="two or more", where=where)
    if problems := [told for path in paths if (told := _problem(path, clip))]:
        what = f"{len(problems)} of {len(paths)} videos cannot be used"
        raise DataError(what, got="; ".join(problems), allowed="videos of a clip's length", where=REMEDY)
    return paths


def _problem(path: Path, clip: Clip) -> str:
    try:
        clips.starts(decode.timing(path), clip, at_most=1)
    except UnusableError as error:
        return f"{path}: {error}"
    return ""
