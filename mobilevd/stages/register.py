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

from mobilevd import remote
from mobilevd.artifacts import Artifact, StageRecord, verify
from mobilevd.errors import EffectError, IntegrityError, MobileVDError
from mobilevd.evaluation import fingerprint, gallery, report
from mobilevd.params import Recipe
from mobilevd.pipeline import MobileVDPipeline
from mobilevd.progress import say
from mobilevd.registry import acceptance, runs, tracking
from mobilevd.secrecy import sanitised
from mobilevd.settings import Clip
from mobilevd.stages import bundle, model_card, pending
from mobilevd.stages.labels import SHOWN

STAGE = "register"
GALLERY = "gallery.html"
NONE = "none"


def run(recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path) -> StageRecord:
    """Write ``bundle/`` and ``gallery.html``, log the run, and register it when the gate's verdict is "passed".

    Inputs: every record of the run. Errors: IntegrityError for an input that changed; EffectError when the bundle does
    not animate; MobileVDError when MLflow does not answer: what was made is kept, and ``resume`` goes on from it.
    """
    started_at, workdir = time.time(), Path(workdir).resolve()
    verdict = inputs["gate"].facts["verdict"]
    shipped = bundle.assemble(recipe, inputs, workdir / "bundle")
    figures = {"register.smoke_s": smoke(shipped.path, recipe.clip)} if verdict == acceptance.PASSED else {}
    (workdir / GALLERY).write_text(_gallery(recipe, inputs), encoding="utf-8")
    made = pending.Pending(records=inputs, bundle=shipped, figures=figures, started_at=started_at)
    made.save(workdir)
    return _finish_or_tell(recipe, made, workdir)


def resume(workdir: Path, recipe: Recipe | None = None) -> StageRecord:
    """Log and register what ``run`` left in ``workdir`` when MLflow did not answer; nothing is made anew.

    ``recipe``: the run's own, where the bundle's copy is not the whole of it (an address in it had a password).
    Errors: as ``run``, and MobileVDError when nothing is left to do or the recipe is another one.
    """
    made = pending.load(Path(workdir).resolve())
    return _finish_or_tell(pending.recipe(made, recipe), made, Path(workdir).resolve())


def _finish_or_tell(recipe: Recipe, made: pending.Pending, workdir: Path) -> StageRecord:
    try:
        return _finish(recipe, made, workdir)
    except MobileVDError:
        say(pending.kept(workdir))
        raise


def _finish(recipe: Recipe, made: pending.Pending, workdir: Path) -> StageRecord:
    """Done once, however often it is tried: a version of this bundle is found again, half-written runs are deleted."""
    inputs, shipped = made.records, made.bundle
    verdict, tags, page_file = inputs["gate"].facts["verdict"], _tags(made.bundle), workdir / GALLERY
    known = acceptance.registered(recipe.registry.model, shipped.sha256)
    if known is None:
        runs.clear_attempts(recipe.registry.experiment, shipped.sha256)
        pages = [page_file, *_pages(inputs)]
        run_id = runs.log_run(recipe, inputs, verdict, pages, tags | {"made_bundle": shipped.sha256})
        version = _offer(recipe, run_id, shipped, tags, verdict)
    else:
        version, run_id = known
    size = sum(path.stat().st_size for path in shipped.path.rglob("*") if path.is_file())
    record = StageRecord(
        stage=STAGE,
        recipe_digest=recipe.digest,
        data_md5=inputs["prepare"].data_md5,
        parents={name: record.artifacts[key].sha256 for name, record, key in _parents(inputs)},
        artifacts={"bundle": shipped},
        figures=made.figures | {"register.bundle_mb": size / 1e6},
        facts={
            "verdict": verdict,
            "model": recipe.registry.model,
            "version": version,
            "run_id": run_id,
            "tracking_uri": sanitised(tracking.uri()),
            "bundle": shipped.uri,
            "page": str(page_file),
        },
        tables={"gates": inputs["gate"].tables["gates"]},
        started_at=made.started_at,
        seconds=time.time() - made.started_at,
    )
    pending.done(workdir)
    return record


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
    if verdict == acceptance.PASSED:
        return acceptance.register(recipe, run_id, shipped, tags)
    acceptance.reject(run_id, shipped)
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
    title = f"{recipe.name} on {sanitised(recipe.base)}"
    gates, scores, costs = gate.tables["gates"], evaluated.tables["scores"], model_card.costs(inputs)
    protocol = fingerprint.of_facts(evaluated.facts)
    told = [f"{note}." for note in report.few(protocol.get("clips", report.FEW))]
    leads = {"Scores": " ".join([gallery.LEADS["Scores"], *told])}
    return gallery.page(title, gate.facts["verdict"], gates, scores, costs, _clips(evaluated), protocol, leads)


def _clips(evaluated: StageRecord) -> list[gallery.Clip]:
    folder = evaluated.artifacts["clips"]
    verify(folder.path, folder.sha256)
    files = sorted(path for path in folder.path.glob("*.webp") if "-" not in path.name)
    if not files:
        raise IntegrityError("The evaluation left no clips to show", got=folder.uri, allowed="animated WebP files")
    told = {row["clip"]: {n: d for n, d in row.items() if n != "clip"} for row in evaluated.tables.get("clips", [])}
    return [_clip(file, told.get(file.stem, {})) for file in files]


def _clip(file: Path, distances: dict[str, float]) -> gallery.Clip:
    beside = [file.with_name(f"{file.stem}-{what}.webp") for what in ("strip", "difference")]
    folded = [path.read_bytes() if path.is_file() else b"" for path in beside]  # a reused evaluation may be older
    worst = distances.get("student")
    return gallery.Clip(f"Clip {file.stem}", "", list(SHOWN), file.read_bytes(), worst, distances, *folded)
