"""A million clips planned, shared out, listed and validated: time and memory. ``python benchmarks/shards.py --json``

The files are names alone: nothing is decoded. Each shard's list is written by a pass of its own, as its task would; the
join reads all lists, counts and validates them with the recipe's expectations.
"""

import argparse
import hashlib
import json
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mobilevd.artifacts import Artifact, seal, seal_shards
from mobilevd.settings import Clip, Prepare
from mobilevd.video import expectations, manifest, shards
from mobilevd.video.manifest import CLIPS, Row
from mobilevd.video.quota import check_quota


def main() -> None:
    """Plan, list and validate ``--files`` files with one clip each."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--files", type=int, default=1_000_000)
    options.add_argument("--per-shard", type=int, default=10_000)
    options.add_argument("--json", action="store_true")
    asked = options.parse_args()
    told = run(asked.files, Prepare(files_per_shard=asked.per_shard), Path(tempfile.mkdtemp(prefix="shards-")))
    print(json.dumps(told, indent=2) if asked.json else "\n".join(f"{name}: {value}" for name, value in told.items()))


def run(count: int, prepare: Prepare, folder: Path) -> dict[str, float | int | str]:
    """What each part took, in s, and the most memory the process had by its end, in MB."""
    told: dict[str, float | int | str] = {"files": count, "machine": f"{platform.machine()}, {platform.system()}"}

    def timed(name: str, work: Callable):
        began, result = time.perf_counter(), work()
        told[f"{name}_s"] = round(time.perf_counter() - began, 1)
        told[f"{name}_peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return result

    plan = folder / "plan"
    told["shards"] = timed("plan", lambda: _plan(count, prepare, plan))
    parts = timed("list", lambda: [_listed(plan, k, told["shards"], folder / "clips") for k in range(told["shards"])])
    timed("seal", lambda: seal_shards(folder / "clips", {f"{k:05d}": part for k, part in enumerate(parts)}))
    clips = timed("join", lambda: manifest.joined(part.read(CLIPS) for part in parts))
    check_quota(prepare, count, [], set(clips["split"].unique().to_pylist()))
    timed("validate", lambda: expectations.validate(clips, Clip(), prepare, folder / "data_docs"))
    return told | {"clips": len(clips), "manifests_mb": round(sum(p.stat().st_size for p in folder.rglob(CLIPS)) / 1e6)}


def _plan(count: int, prepare: Prepare, folder: Path) -> int:
    files = {f"films/{k % 1000:03d}/{k:07d}.mp4": _digest(k)[:32] for k in range(count)}
    planned = shards.plan(files, prepare)
    shards.write(planned, prepare, folder)
    return shards.count(planned, prepare)


def _listed(plan: Path, number: int, of: int, folder: Path) -> Artifact:
    shard, clip = shards.read((plan / shards.file(number)).read_bytes(), number, of), Clip()
    size = {"fps": clip.fps, "frames": clip.frames, "width": clip.width, "height": clip.height}
    rows = [
        Row(
            clip_id=f"{name}#0",
            source=name,
            source_sha256=_digest(name),
            split=shard.sides[name],
            rendered=False,
            camera="",
            start_s=0.0,
            motion=0.02,
            pixels_sha256=_digest(f"{name}#0"),
            **size,
        )
        for name in shard.files
    ]
    manifest.write(folder / shard.folder, rows, [])
    return seal(folder / shard.folder)


def _digest(of: object) -> str:
    return hashlib.sha256(str(of).encode()).hexdigest()


if __name__ == "__main__":
    main()
