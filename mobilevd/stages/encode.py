"""Encode: one shard of the files → its clips, cut or rendered, and their latents; many shards at once, each by itself.

**Keeps** a shard that was finished is not made again, and one that was cut short leaves the others as they are
(``tests/stages/test_encode.py``). One clip's pixels and one shard's latents are in memory at a time.
"""

import resource
import time
from pathlib import Path

from safetensors.torch import save_file

from mobilevd import progress
from mobilevd.artifacts import StageRecord, seal
from mobilevd.packages import cache_dir
from mobilevd.params import Recipe
from mobilevd.stages import share
from mobilevd.stages.shared_run import SharedRun
from mobilevd.svd.base import Base, load
from mobilevd.svd.inference import device_for
from mobilevd.video import latents, manifest, pictures, pinned, store
from mobilevd.video.gather import Found, gather
from mobilevd.video.manifest import Row
from mobilevd.video.quota import SIDES

STAGE = "encode"
COUNTED = ("reused", "computed", "damaged")
FIRST, STRIP = "first frames", "validation clip {}"


def finished(recipe: Recipe, inputs: dict[str, StageRecord], run_folder: str, number: int) -> StageRecord:
    """The shard in a run's folder, on this disk or on S3; made unless an earlier attempt left it whole."""
    place = SharedRun(run_folder, "prepare", part=f"{number:05d}")
    if (left := place.left(recipe.digest, inputs)) is not None:
        progress.say(f"shard {number} was finished before")
        return left
    return place.finish(run(recipe, inputs, place.workdir, number))


def run(recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path, number: int = 0) -> StageRecord:
    """Decode, render and encode the clips of shard ``number``; its folders ``clips`` and ``latents`` are sealed.

    Errors: DataError when too many files cannot be used, or a single shard leaves too little; IntegrityError when a
    file is not the pinned one.
    """
    started_at, workdir, shared = time.time(), Path(workdir).resolve(), inputs["share"]
    shard, base = share.shard(shared, number), load(recipe.base).to(device_for(number))
    data = pinned.bring(recipe.prepare, shard.used, shared.data_md5)
    folders = {name: workdir / name / shard.folder for name in ("clips", "latents", "pictures")}
    found = gather(data, recipe.clip, recipe.prepare, folders["clips"], shard)
    gathered_at = time.time()
    encoded = [_encoded(base, found.side(side), folders, side) for side in SIDES]
    for name in ("clips", "latents"):
        manifest.write(folders[name], found.rows, found.rejected)
    figures = {f"latents_{name}": sum(getattr(part, name) for part in encoded) for name in COUNTED}
    return StageRecord(
        stage=STAGE,
        recipe_digest=recipe.digest,
        data_md5=shared.data_md5,
        parents={"base": base.digest, "share": share.plan(shared).sha256},
        artifacts={name: seal(folders[name]) for name in ("clips", "latents")},
        figures=figures | {"clips": len(found.rows), "gather_seconds": gathered_at - started_at},
        pictures={name: path.relative_to(workdir).as_posix() for name, path in _drawn(found, folders).items()},
        started_at=started_at,
        seconds=time.time() - started_at,
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def _encoded(base: Base, rows: list[Row], folders: dict[str, Path], side: str) -> latents.Encoded:
    videos = progress.track(store.clips(folders["clips"] / f"{side}.safetensors"), len(rows), f"encoding {side} clips")
    keys = [latents.key(row.pixels_sha256, base.encoder_digest) for row in rows]
    encoded = latents.encoded(videos, keys, base.encode, cache_dir() / "latents")
    folders["latents"].mkdir(parents=True, exist_ok=True)
    if rows:
        save_file(encoded.tensors, folders["latents"] / f"{side}.safetensors")
    return encoded


def _drawn(found: Found, folders: dict[str, Path]) -> dict[str, Path]:
    frames, drawn = [(frame, side) for side in SIDES for frame in found.thumbnails[side]], {}
    if frames:
        sheet = folders["pictures"] / "clips.png"
        drawn[FIRST] = pictures.contact_sheet([frame for frame, _ in frames], [side for _, side in frames], sheet)
    if held_out := found.side("validation"):
        first = next(store.clips(folders["clips"] / "validation.safetensors"))
        drawn[STRIP.format(held_out[0].clip_id)] = pictures.strip(first, folders["pictures"] / "validation.png")
    return drawn
