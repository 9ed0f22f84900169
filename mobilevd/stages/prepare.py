"""Prepare: from a pinned folder of videos and photographs to validated, encoded clips.

A plan shares the files out, each shard is encoded by itself, and what they leave is joined and validated here.
**Keeps** no scene on both sides; the tensors of a side and its rows have one order, in whatever number of shards
(``tests/stages/test_prepare.py``).
"""

import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mobilevd import remote
from mobilevd.artifacts import Artifact, StageRecord, seal, seal_shards
from mobilevd.params import Recipe
from mobilevd.video import expectations, manifest
from mobilevd.video.manifest import CLIPS, REJECTED, Rejected
from mobilevd.video.quota import SIDES, check_quota

if TYPE_CHECKING:
    import pyarrow

STAGE = "prepare"
MADE = ("clips", "latents")
AT_MOST_LISTED = 1000  # rows of a table on a card; the manifest has them all


def run(recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path) -> StageRecord:
    """Share out, encode every shard and join them, one after the other on this machine.

    Errors: DataError when the folder drifted from its pin, its files cannot be enough, too many of them cannot be used,
    a side is empty or the clips do not meet their expectations; RecipeError when the clip size does not fit the base.
    """
    from mobilevd.stages import encode, share
    from mobilevd.svd.base import load

    load(recipe.base).check_clip(recipe.clip)
    shared = share.run(recipe, {}, workdir)
    parts = [encode.run(recipe, {"share": shared}, workdir, number) for number in share.numbers(shared)]
    return join(recipe, {"share": shared}, workdir, parts)


def join(recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path, parts: list[StageRecord]) -> StageRecord:
    """Validate what the shards left as one; nothing but their manifests is read, and nothing is copied.

    Errors: DataError as of ``run``; IntegrityError when a manifest is not the sealed one.
    """
    started_at, workdir, shared = time.time(), Path(workdir).resolve(), inputs["share"]
    clips = manifest.joined(part.artifacts["clips"].read(CLIPS) for part in parts)
    left_out = manifest.joined((part.artifacts["clips"].read(REJECTED) for part in parts), Rejected)
    rejected = [Rejected(**values) for values in left_out.to_pylist()]
    check_quota(recipe.prepare, int(shared.figures["share.files"]), rejected, set(clips["split"].unique().to_pylist()))
    page = expectations.validate(clips, recipe.clip, recipe.prepare, workdir / "data_docs")
    docs = {"data_docs": seal(workdir / "data_docs")}
    return StageRecord(
        stage=STAGE,
        recipe_digest=recipe.digest,
        data_md5=shared.data_md5,
        parents={"base": parts[0].parents["base"]},
        artifacts={name: _as_one(name, parts, workdir) for name in MADE} | docs,
        figures=_figures(clips, rejected, parts),
        facts=shared.facts | {"base": recipe.base, "data_docs": page.relative_to(workdir).as_posix()},
        pictures=_pictures(parts, workdir),
        tables=_tables(clips, left_out),
        started_at=started_at,
        seconds=time.time() - started_at + sum(part.seconds for part in (shared, *parts)),
        peak_memory_mb=max(_peak_mb(), *(part.peak_memory_mb for part in parts)),
    )


def _as_one(name: str, parts: list[StageRecord], workdir: Path) -> Artifact:
    """What a single shard sealed is the whole; several are sealed together by their manifests."""
    if len(parts) == 1:
        return parts[0].artifacts[name]
    return seal_shards(workdir / name, {f"{k:05d}": part.artifacts[name] for k, part in enumerate(parts)})


def _figures(clips: "pyarrow.Table", rejected: list[Rejected], parts: list[StageRecord]) -> dict[str, float]:
    import pyarrow.compute as pc

    figures: dict[str, float | int] = {}
    for side in SIDES:
        ours = clips.filter(pc.equal(clips["split"], side))
        figures[f"{side}_clips"] = len(ours)
        figures[f"{side}_clips_rendered"] = pc.sum(ours["rendered"]).as_py()
        figures[f"{side}_sources"] = pc.count_distinct(ours["source"]).as_py()
        figures[f"{side}_motion_mean"] = pc.mean(ours["motion"]).as_py()
    figures["rejected_files"] = sum(item.start_s is None for item in rejected)
    figures["rejected_windows"] = sum(item.start_s is not None for item in rejected)
    for name in ("latents_reused", "latents_computed", "latents_damaged", "gather_seconds"):
        figures[name] = sum(part.figures[name] for part in parts)
    return {f"{STAGE}.{name}": float(value) for name, value in (figures | {"shards": len(parts)}).items()}


def _pictures(parts: list[StageRecord], workdir: Path) -> dict[str, str]:
    """The first sheet and the first strip that a shard drew, brought here."""
    found: dict[str, str] = {}
    for part in parts:
        for name, relative in part.pictures.items():
            if Path(relative).name not in {Path(known).name for known in found.values()}:
                _bring(part.artifacts["clips"].uri.rsplit("/clips", 1)[0], relative, workdir)
                found[name] = relative
    return found


def _bring(home: str, relative: str, workdir: Path) -> None:
    if remote.is_remote(home) and not (path := workdir / relative).is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(remote.read(f"{home}/{relative}"))


def _tables(clips: "pyarrow.Table", rejected: "pyarrow.Table") -> dict[str, list[dict]]:
    counted = clips.group_by(["source", "split", "rendered"], use_threads=False).aggregate([([], "count_all")])
    sources = [
        {"source": source, "side": side, "kind": "rendered" if rendered else "video", "clips": clips}
        for source, side, rendered, clips in (row.values() for row in _first(counted))
    ]
    return {"sources": sources, "rejected": _first(rejected)}


def _first(table: "pyarrow.Table") -> list[dict]:
    return table.slice(0, AT_MOST_LISTED).to_pylist()


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
