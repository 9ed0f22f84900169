"""Prepare: from a pinned folder of videos and photographs to validated, encoded clips.

**Keeps** no scene on both sides; the tensors of a side and its rows have one order (``tests/stages/test_prepare.py``).
"""

import resource
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save_file

from mobilevd.artifacts import StageRecord, seal
from mobilevd.packages import cache_dir
from mobilevd.params import Recipe
from mobilevd.progress import track
from mobilevd.svd.base import Base, load
from mobilevd.video import expectations, latents, manifest, pictures, pinned, store
from mobilevd.video.gather import SIDES, Found, gather
from mobilevd.video.manifest import Row

STAGE = "prepare"


def run(recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path) -> StageRecord:
    """Decode, render, check and encode every clip; the folders ``clips``, ``latents`` and ``data_docs`` are sealed.

    Errors: DataError when the folder drifted from its pin, too many files cannot be used, a side is empty or the clips
    do not meet their expectations; RecipeError when the clip size does not fit the base.
    """
    started_at, workdir = time.time(), Path(workdir).resolve()
    base = load(recipe.base)
    base.check_clip(recipe.clip)
    data, md5 = pinned.bring(recipe.prepare)
    how = f"{recipe.prepare.data}, " + (f"as {recipe.prepare.pin}" if recipe.prepare.pin else "unpinned")
    found = gather(data, recipe.clip, recipe.prepare, workdir / "clips")
    gathered_at = time.time()
    page = expectations.validate(found.rows, recipe.clip, recipe.prepare, workdir / "data_docs")
    encoded = {side: _encoded(base, found.side(side), workdir, side) for side in SIDES}
    for folder in ("clips", "latents"):
        manifest.write(workdir / folder, found.rows, found.rejected)
    return StageRecord(
        stage=STAGE,
        recipe_digest=recipe.digest,
        data_md5=md5,
        parents={"base": base.digest},
        artifacts={name: seal(workdir / name) for name in ("clips", "latents", "data_docs")},
        figures=_figures(found, encoded) | {f"{STAGE}.gather_seconds": gathered_at - started_at},
        facts={"data": how, "base": recipe.base, "data_docs": page.relative_to(workdir).as_posix()},
        pictures=_pictures(found, workdir),
        tables=_tables(found),
        started_at=started_at,
        seconds=time.time() - started_at,
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def _encoded(base: Base, rows: list[Row], workdir: Path, side: str) -> latents.Encoded:
    videos = track(store.clips(workdir / "clips" / f"{side}.safetensors"), len(rows), f"encoding {side} clips")
    keys = [latents.key(row.pixels_sha256, base.encoder_digest) for row in rows]
    encoded = latents.encoded(videos, keys, base.encode, cache_dir() / "latents")
    (workdir / "latents").mkdir(parents=True, exist_ok=True)
    save_file(encoded.tensors, workdir / "latents" / f"{side}.safetensors")
    return encoded


def _figures(found: Found, encoded: dict[str, latents.Encoded]) -> dict[str, float]:
    figures: dict[str, float | int] = {}
    for side in SIDES:
        rows = found.side(side)
        figures[f"{side}_clips"] = len(rows)
        figures[f"{side}_clips_rendered"] = sum(row.rendered for row in rows)
        figures[f"{side}_sources"] = len({row.source for row in rows})
        figures[f"{side}_motion_mean"] = sum(row.motion for row in rows) / len(rows)
    figures["rejected_files"] = sum(item.start_s is None for item in found.rejected)
    figures["rejected_windows"] = sum(item.start_s is not None for item in found.rejected)
    for name in ("reused", "computed", "damaged"):
        figures[f"latents_{name}"] = sum(getattr(part, name) for part in encoded.values())
    return {f"{STAGE}.{name}": float(value) for name, value in figures.items()}


def _pictures(found: Found, workdir: Path) -> dict[str, str]:
    frames = [(frame, side) for side in SIDES for frame in found.thumbnails[side]]
    sheet = pictures.contact_sheet([f for f, _ in frames], [s for _, s in frames], workdir / "pictures" / "clips.png")
    first = next(store.clips(workdir / "clips" / "validation.safetensors"))
    strip = pictures.strip(first, workdir / "pictures" / "validation.png")
    drawn = {"first frames": sheet, f"validation clip {found.side('validation')[0].clip_id}": strip}
    return {name: path.relative_to(workdir).as_posix() for name, path in drawn.items()}


def _tables(found: Found) -> dict[str, list[dict]]:
    counts = Counter((row.source, row.split, "rendered" if row.rendered else "video") for row in found.rows)
    sources = [{"source": s, "side": side, "kind": kind, "clips": n} for (s, side, kind), n in counts.items()]
    return {"sources": sources, "rejected": [asdict(item) for item in found.rejected]}
