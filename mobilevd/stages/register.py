"""Register: assemble what ships, run it once, write the whole run down, and offer it only when its gates passed.

**Keeps** a rejected run leaves no version; a bundle that cannot animate an image is never offered
(``tests/stages/test_register.py``).
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobilevd import registry, remote
from mobilevd.artifacts import Artifact, StageRecord, verify
from mobilevd.errors import EffectError, IntegrityError
from mobilevd.evaluation import gallery
from mobilevd.params import Clip, Recipe
from mobilevd.pipeline import MobileVDPipeline
from mobilevd.stages import bundle, model_card
from mobilevd.stages.evaluate import SHOWN

STAGE = "register"
GALLERY = "gallery.html"
NONE = "none"


def run(recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path) -> StageRecord:
    """Write ``bundle/`` and ``gallery.html``, log the run, and register it when the gate's verdict is "passed".

    Inputs: every record of the run. Errors: IntegrityError for an input that changed; EffectError when the bundle does
    not animate; MobileVDError when MLflow does not answer, with what is kept.
    """
    started_at, workdir = time.time(), Path(workdir).resolve()
    verdict = inputs["gate"].facts["verdict"]
    shipped = bundle.assemble(recipe, inputs, workdir / "bundle")
    figures = {"register.smoke_s": smoke(shipped.path, recipe.clip)} if verdict == registry.PASSED else {}
    page_file = workdir / GALLERY
    page_file.write_text(_gallery(recipe, inputs), encoding="utf-8")
    tags = _tags(shipped)
    run_id = registry.log_run(recipe, inputs, verdict, [page_file, *_pages(inputs)], tags)
    version = _offer(recipe, run_id, shipped, tags, verdict)
    size = sum(path.stat().st_size for path in shipped.path.rglob("*") if path.is_file())
    return StageRecord(
        stage=STAGE,
        recipe_digest=recipe.digest,
        data_md5=inputs["prepare"].data_md5,
        parents={name: record.artifacts[key].sha256 for name, record, key in _parents(inputs)},
        artifacts={"bundle": shipped},
        figures=figures | {"register.bundle_mb": size / 1e6},
        facts={
            "verdict": verdict,
            "model": recipe.registry.model,
            "version": version,
            "run_id": run_id,
            "tracking_uri": registry.sanitised(registry.tracking_uri()),
            "bundle": shipped.uri,
            "page": str(page_file),
        },
        tables={"gates": inputs["gate"].tables["gates"]},
        started_at=started_at,
        seconds=time.time() - started_at,
    )


def page(record: StageRecord | Mapping[str, Any]) -> str:
    """The gallery that a record of this stage names, as HTML."""
    facts = record.facts if isinstance(record, StageRecord) else record["facts"]
    if remote.is_remote(facts["page"]):
        return remote.read(facts["page"]).decode("utf-8")
    return Path(facts["page"]).read_text(encoding="utf-8")


@torch.no_grad()
def smoke(folder: Path, clip: Clip) -> float:
    """Animate one grey image from the bundle in ``folder``; returns the seconds it took.

    Errors: IntegrityError for a file that changed; EffectError when the frames are not finite or not ``clip``'s.
    """
    pipeline = MobileVDPipeline.from_pretrained(folder)
    finite: list[bool] = []
    watched = (pipeline.step, pipeline.base.vae.decoder)
    hooks = [net.register_forward_hook(lambda _, __, out: finite.append(_is_finite(out))) for net in watched]
    began = time.perf_counter()
    frames = pipeline(torch.full((3, clip.height, clip.width), 128, dtype=torch.uint8)).frames
    seconds = time.perf_counter() - began
    for hook in hooks:
        hook.remove()
    wanted = (clip.frames, 3, clip.height, clip.width)
    if tuple(frames.shape) != wanted or len(finite) < len(watched) or not all(finite):
        raise EffectError(
            "The bundle does not animate a grey image",
            got=f"frames {tuple(frames.shape)}, finite {finite}",
            allowed=f"finite frames {wanted}",
            where=str(folder),
        )
    return seconds


def _is_finite(out: Tensor) -> bool:
    return bool(torch.isfinite(out).all())


def _offer(recipe: Recipe, run_id: str, shipped: Artifact, tags: dict[str, str], verdict: str) -> str:
    if verdict == registry.PASSED:
        return registry.register(recipe, run_id, shipped, tags)
    registry.reject(run_id, shipped)
    return NONE


def _tags(shipped: Artifact) -> dict[str, str]:
    told = json.loads((shipped.path / "lineage.json").read_text(encoding="utf-8"))
    parents = {
        f"parent.{stage}.{name}": digest
        for stage, record in told["stages"].items()
        for name, digest in record["artifacts"].items()
    }
    own = {"data_md5": told["data_md5"], "git_commit": told["git_commit"], "base": told["base"]["name"]}
    return own | {"parent.base": told["base"]["sha256"]} | parents


def _parents(inputs: dict[str, StageRecord]) -> list[tuple[str, StageRecord, str]]:
    return [(stage, inputs[stage], name) for stage, name in (bundle.NETWORK, bundle.ONNX, bundle.GATES)]


def _pages(inputs: dict[str, StageRecord]) -> list[Path]:
    found = [inputs["gate"].artifacts["gates"].path]
    return [*found, *(a.path for name, a in inputs["prepare"].artifacts.items() if name == "data_docs")]


def _gallery(recipe: Recipe, inputs: dict[str, StageRecord]) -> str:
    gate, evaluated = inputs["gate"], inputs["evaluate"]
    title = f"{recipe.name} on {registry.sanitised(recipe.base)}"
    gates, scores, costs = gate.tables["gates"], evaluated.tables["scores"], model_card.costs(inputs)
    return gallery.page(title, gate.facts["verdict"], gates, scores, costs, _clips(evaluated))


def _clips(evaluated: StageRecord) -> list[gallery.Clip]:
    folder = evaluated.artifacts["clips"]
    verify(folder.path, folder.sha256)
    files = sorted(folder.path.glob("*.webp"))
    if not files:
        raise IntegrityError("The evaluation left no clips to show", got=folder.uri, allowed="animated WebP files")
    return [gallery.Clip(f"Clip {file.stem}", "", list(SHOWN), file.read_bytes()) for file in files]
