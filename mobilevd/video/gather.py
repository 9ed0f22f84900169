"""From a folder of files to clips on disk: cut every video, split what is usable, render photographs, write and list.

**Keeps** every file that gives no clip has a reason, and too many of them stop the run (``test_gather.py``).
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from jaxtyping import UInt8
from PIL.Image import Image
from torch import Tensor

from mobilevd.artifacts import file_sha256
from mobilevd.errors import MobileVDError
from mobilevd.progress import track
from mobilevd.settings import Clip, Prepare
from mobilevd.video import clips, decode, pictures, quarantine, store
from mobilevd.video.clips import Source
from mobilevd.video.decode import Reason, UnusableError
from mobilevd.video.manifest import Rejected, Row
from mobilevd.video.quota import SIDES, check_failed, check_quota
from mobilevd.video.shards import Shard, usable

THUMBNAILS_PER_SIDE = 48


@dataclass
class Found:
    """What a pass over the folder leaves besides the pixels; rows stand in the order of their side's tensors."""

    rows: list[Row] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    thumbnails: dict[str, list[Image]] = field(default_factory=lambda: {side: [] for side in SIDES})

    def side(self, name: str) -> list[Row]:
        """The rows of "train" or "validation"."""
        return [row for row in self.rows if row.split == name]


class Take(NamedTuple):
    """One clip of a source: when it starts (0 for a rendered one), the rendered motion's name, the pixels."""

    start_s: float
    camera: str
    video: UInt8[Tensor, "F 3 H W"]


class Part(NamedTuple):
    """The windows of one video that are kept, on disk, and when each starts; nothing for a photograph."""

    path: Path
    starts_s: tuple[float, ...]


def gather(data: Path, clip: Clip, prepare: Prepare, folder: Path, shard: Shard | None = None) -> Found:
    """Write the clips of every usable file under ``data`` as train.safetensors and validation.safetensors.

    Every video is cut before the split is made, so that a file which breaks late takes no place on a side; one
    ``shard`` of several has its sides from the plan, and says of the whole only that too many of its files failed.
    Errors: DataError as soon as more files than the quota cannot be used, or when a side is left empty.
    """
    candidates, folder = _candidates(data, prepare, shard), Path(folder)
    found = Found(rejected=shard.rejected if shard else [])
    total = (shard.total or len(shard.files)) if shard else len(candidates)
    alone = shard is None or shard.of == 1
    still_few = partial(check_failed, prepare, total, found.rejected, so_far=True)
    shutil.rmtree(folder / "parts", ignore_errors=True)
    parts: dict[Source, Part] = {}
    for index, source in enumerate(track(candidates, len(candidates), "cutting clips")):
        with _rejections(source, found, still_few):
            parts[source] = _cut(source, clip, prepare, folder / "parts" / f"{index}.safetensors", found)
    sides = clips.sides(list(parts), prepare.validation_share, prepare.scene) if alone else shard.sides
    with contextlib.ExitStack() as stack:
        files = {side: stack.enter_context(store.ClipFile(folder / f"{side}.safetensors", clip)) for side in SIDES}
        for source, part in track(parts.items(), len(parts), "rendering and sorting clips"):
            side = sides[source.name]
            with _rejections(source, found, still_few):
                _add(source, side, _takes(source, part, side, clip, prepare), prepare, found, files[side])
        if alone:
            check_quota(prepare, total, found.rejected, {row.split for row in found.rows})
    shutil.rmtree(folder / "parts", ignore_errors=True)
    return found


def _candidates(data: Path, prepare: Prepare, shard: Shard | None) -> list[Source]:
    if shard is not None:
        return [Source(name, Path(data) / name) for name in shard.used]
    return usable(clips.sources(data), prepare)


@contextlib.contextmanager
def _rejections(source: Source, found: Found, still_few: Callable[[], None]) -> Iterator[None]:
    """A file that turns out unusable is listed; ``still_few`` is asked then, and raises when it was one too many."""
    try:
        yield
    except UnusableError as error:
        found.rejected.append(Rejected(source.name, error.reason.value, error.detail))
    else:
        return
    still_few()


def _cut(source: Source, clip: Clip, prepare: Prepare, path: Path, found: Found) -> Part:
    """Write every window of a video that moves to ``path``; of a photograph, see that it can be read.

    Both in a process of their own: some files kill the one that decodes them.
    """
    words = (source.name, str(source.path), clip.model_dump(mode="json"), prepare.model_dump(mode="json"), str(path))
    try:
        told = quarantine.shared().call(__name__, "cut", *words)
    except MobileVDError as error:  # a mistake of ours that this file brings about
        raise MobileVDError(error.what, got=f"{error.got} on {source.path}", where=error.where) from error
    found.rejected += [Rejected(**window) for window in told["rejected"]]
    if not told["starts_s"] and not source.is_photo:
        raise UnusableError(Reason.STILL, "in every window")
    return Part(path, tuple(told["starts_s"]))


def cut(name: str, file: str, clip_values: dict, prepare_values: dict, path: str) -> dict:
    """The quarantined half of ``_cut``: starts of the windows kept, and the windows left out. Errors: UnusableError."""
    source, found, kept = Source(name, Path(file)), Found(), []
    clip, prepare = (
        kind.model_validate_json(json.dumps(values))
        for kind, values in ((Clip, clip_values), (Prepare, prepare_values))
    )
    if source.is_photo:
        clips.photograph(source.path)
        return {"starts_s": [], "rejected": []}
    timing = decode.timing(source.path)
    with store.ClipFile(Path(path), clip) as cut_to:
        for start_s in clips.starts(timing, clip, at_most=prepare.windows_per_source):
            video = clips.window(source.path, clip, timing, start_s)
            if _moves(source, video, start_s, prepare, found):
                cut_to.append(video)
                kept.append(start_s)
    return {"starts_s": kept, "rejected": [asdict(window) for window in found.rejected]}


def _moves(source: Source, video: Tensor, start_s: float, prepare: Prepare, found: Found) -> bool:
    motion = clips.motion(video)
    if still := motion <= prepare.min_motion:
        found.rejected.append(Rejected(source.name, Reason.STILL.value, f"motion {motion:.1e}", start_s))
    return not still


def _takes(source: Source, part: Part, side: str, clip: Clip, prepare: Prepare) -> Iterator[Take]:
    if not source.is_photo:
        yield from (Take(at, "", video) for at, video in zip(part.starts_s, store.clips(part.path), strict=True))
        return
    photo, digest = clips.photograph(source.path), file_sha256(source.path)
    for index in range(getattr(prepare.rendered, f"{side}_per_photo")):
        video, camera = clips.rendered(photo, digest, index, clip)
        yield Take(0.0, camera, video)


def _add(
    source: Source, side: str, takes: Iterable[Take], prepare: Prepare, found: Found, file: store.ClipFile
) -> None:
    digest, kept, seen = file_sha256(source.path), 0, 0
    for index, take in enumerate(takes):
        seen += 1
        if source.is_photo and not _moves(source, take.video, take.start_s, prepare, found):
            continue
        kept += 1
        file.append(take.video)
        found.rows.append(_row(f"{source.name}#{index}", source, digest, side, take, file.clip))
        if len(found.thumbnails[side]) < THUMBNAILS_PER_SIDE:
            found.thumbnails[side].append(pictures.thumbnail(take.video[0]))
    if seen and not kept:
        raise UnusableError(Reason.STILL, "in every rendered clip")


def _row(clip_id: str, source: Source, digest: str, side: str, take: Take, clip: Clip) -> Row:
    frames, _, height, width = take.video.shape
    return Row(
        clip_id=clip_id,
        source=source.name,
        source_sha256=digest,
        split=side,
        rendered=source.is_photo,
        camera=take.camera,
        start_s=take.start_s,
        fps=clip.fps,
        frames=frames,
        width=width,
        height=height,
        motion=clips.motion(take.video),
        pixels_sha256=clips.digest(take.video),
    )
