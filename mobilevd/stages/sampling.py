"""Samples and their scores, clip by clip, spread over processes; what is there is not made again.

**Keeps** a clip's samples depend on its number and its seed alone, not on batch, order or number of processes; a run
that was killed goes on where it was (``tests/stages/test_sampling.py``). **Axes** latents 1 F C H W, pixels 1 F 3 H W.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from mobilevd.artifacts import StageRecord, write_json
from mobilevd.device.export import file_bytes
from mobilevd.evaluation import fingerprint, i3d, motion
from mobilevd.evaluation.fingerprint import Fingerprint
from mobilevd.params import Recipe, check
from mobilevd.progress import track
from mobilevd.stages import contenders, spread
from mobilevd.stages.job import NETWORK
from mobilevd.stages.labels import REAL, SHOWN
from mobilevd.stages.quantize import ONNX
from mobilevd.svd import base as bases
from mobilevd.svd.inference import device_for

PREPROCESSING = "tf-reference"
AT_MOST_SHOWN = 16  # clips whose pixels are kept for the page
READ = ("prepare", "finetune", "distill", "prune", "funnel", "quantize")
NETWORKS = (NETWORK, ONNX)  # artifacts


@dataclass(frozen=True)
class Scores:
    """What is known of one contender's clips, in their order: features N D, figures by name (N each), NaN share (N)."""

    features: Tensor
    figures: dict[str, Tensor]
    nan_share: Tensor


def run(
    recipe: Recipe, inputs: dict[str, StageRecord], protocol: Fingerprint, folder: Path, names: Sequence[str]
) -> None:
    """Make and score every contender's clips under ``folder``, as far as they are missing.

    On as many processes as ``spread.processes`` says.
    Errors: IntegrityError for an input that changed; MobileVDError with what a process said that failed.
    """
    _open(recipe, inputs, protocol, Path(folder))
    count = min(processes(inputs), protocol.clips)
    files = [place(folder, name, k) for name in names for k in range(protocol.clips)]
    shown = [_shown(folder, *which) for which in _pairs(names, protocol.clips)]
    i3d.load()  # fetched once, before several processes ask for it
    if count == 1:
        arriving = work(folder, names)
    else:
        arriving = spread.run("mobilevd.stages.sampling", Path(folder), [*files, *shown], count, *names)
    total = len(files) if count == 1 else len(files) + len(shown)
    for _ in track(arriving, total, f"samples and features ({count} process{'es' if count > 1 else ''})"):
        pass


def scores(folder: Path, name: str, clips: int) -> Scores:
    """Read what ``run`` wrote of one contender."""
    rows = [load_file(place(folder, name, k)) for k in range(clips)]
    joined = {key: torch.cat([row[key] for row in rows]) for key in rows[0] if key not in ("latents", "video")}
    return Scores(joined.pop("features"), joined, joined.pop("nan_share"))


def videos(folder: Path, name: str, clips: int) -> Tensor:
    """The pixels that were kept: uint8 N F 3 H W of at most the first 16 clips."""
    return torch.cat([load_file(_shown(folder, name, k))["video"] for k in range(min(clips, AT_MOST_SHOWN))])


def forget_videos(folder: Path) -> None:
    """Remove the pixels that were kept for the page."""
    shutil.rmtree(_shown(folder, REAL, 0).parents[1], ignore_errors=True)


def place(folder: Path, name: str, k: int) -> Path:
    """Where clip ``k`` of a contender lies."""
    return Path(folder) / name / f"{k:05d}.safetensors"


def processes(inputs: dict[str, StageRecord]) -> int:
    """How many, by the largest network of the run. Errors: as ``spread.processes``."""
    named = (item for record in inputs.values() for item in record.artifacts.items())
    return spread.processes(max((_largest(a.path) for name, a in named if name in NETWORKS), default=0))


def _largest(folder: Path) -> int:
    """Bytes of the largest network in a stage's artifact, wherever in it, as weights or as a graph."""
    weights = [path.stat().st_size for path in folder.rglob("*.safetensors")]
    return max([*weights, *map(file_bytes, folder.rglob("*.onnx"))], default=0)


def work(folder: Path, names: Sequence[str], share: int = 0, of: int = 1) -> Iterator[Path]:
    """Make what is missing among every ``of``-th clip, from number ``share`` on; yields each file once it is there."""
    told = json.loads(_job(folder).read_text(encoding="utf-8"))
    recipe, inputs = check(told["recipe"]), {name: StageRecord(**record) for name, record in told["inputs"].items()}
    held, device = contenders.held_out(recipe, inputs["prepare"]), device_for(share)
    base, net = bases.load(recipe.base).to(device), i3d.load().to(device)
    kept = _pairs(names, len(held))
    makers, protocol = contenders.makers(recipe, base.schedule, inputs, held, device), Fingerprint(**told["protocol"])
    for name in names:
        make = None if name == REAL else cache(makers[name])  # its network is read once, when a clip is missing
        for k in range(share, len(held), of):
            path, shown = place(folder, name, k), _shown(folder, name, k)
            wanted = (name, k) in kept and not shown.exists()
            if wanted or not path.exists():
                latents = None if name == REAL else _latents(path, make, k)
                video = held.video[k : k + 1] if latents is None else decoded(base, latents)
                if wanted:
                    spread.save(shown, {"video": video})
                if not path.exists():
                    seen = _features(video, net, protocol if name == REAL else None)
                    spread.save(path, {"features": seen} | _figures(video, held.video[:, 0], k) | _sampled(latents))
            yield path


def _pairs(names: Sequence[str], clips: int) -> list[tuple[str, int]]:
    """Contender and clip whose pixels the page shows."""
    return [(name, k) for name in names if name in SHOWN for k in range(min(clips, AT_MOST_SHOWN))]


def _latents(path: Path, make: Callable[[], contenders.Make], k: int) -> Tensor:
    return load_file(path)["latents"] if path.exists() else make()(k)


def _features(video: Tensor, net: i3d.I3D, protocol: Fingerprint | None) -> Tensor:
    """Of one clip; a real one's, which has a ``protocol``, are found again in later runs."""
    make = partial(i3d.features, video, net, PREPROCESSING)
    if protocol is None:
        return make()
    return fingerprint.features(protocol.model_copy(update={"real": fingerprint.digest_of_clips(video)}), make)


def _figures(video: Tensor, asked: Tensor, k: int) -> dict[str, Tensor]:
    return motion.per_clip(video) | {"input_adherence": motion.adherence(video[0, 0], asked, k)[None]}


def _sampled(latents: Tensor | None) -> dict[str, Tensor]:
    if latents is None:
        return {"nan_share": torch.zeros(1)}
    return {"latents": latents, "nan_share": 1 - latents.isfinite().float().mean()[None]}


def decoded(base: bases.Base, latents: Tensor) -> Tensor:
    """Latents 1 F C H W → pixels 1 F 3 H W, uint8, as they are scored and shown."""
    return base.decode(latents).mul(255).round().to(torch.uint8).cpu()


def _job(folder: Path) -> Path:
    """Beside the folder: it names places, and samples are sealed without it, so that a replay gives their digest."""
    return Path(folder).with_name(f"{Path(folder).name}-job.json")


def _shown(folder: Path, name: str, k: int) -> Path:
    return Path(folder).with_name(f"{Path(folder).name}-shown") / name / f"{k:05d}.safetensors"


def _open(recipe: Recipe, inputs: dict[str, StageRecord], protocol: Fingerprint, folder: Path) -> None:
    """Write down what the folder's files are made of; those of other inputs are removed."""
    read = {name: inputs[name] for name in READ}
    made_of = {name: {key: a.sha256 for key, a in record.artifacts.items()} for name, record in read.items()}
    digest = fingerprint.digest({"recipe": recipe.digest, "inputs": made_of, "protocol": protocol.digest})
    path = _job(folder)
    if path.is_file() and json.loads(path.read_text(encoding="utf-8"))["digest"] != digest:
        shutil.rmtree(folder, ignore_errors=True)
        forget_videos(folder)
    slim = {
        name: record.model_copy(update={"tables": {}, "curves": {}, "figures": {}}).model_dump(mode="json")
        for name, record in read.items()
    }
    told = {"recipe": recipe.model_dump(mode="json"), "protocol": protocol.model_dump(mode="json")}
    write_json(path, {"digest": digest, "inputs": slim} | told)


def _share(folder: Path, share: spread.Share, names: Sequence[str]) -> Iterator[Path]:
    return work(folder, names, *share)


if __name__ == "__main__":
    spread.serve(_share, sys.argv[1:])
