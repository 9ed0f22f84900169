"""One trained student under every quantizer: how far from float, how large, where the noise is, and what FVD says.

**Keeps** all are calibrated, checked and sampled on the clips and seeds of the model's own run, so that they differ by
the quantizer alone (``tests/stages/test_quantizers.py``). **Axes** latents 1 F C H W, features N D.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor

from mobilevd import params
from mobilevd.artifacts import StageRecord, write_json
from mobilevd.device import aimet, animate, inputs
from mobilevd.device.export import file_bytes
from mobilevd.device.runtime import OnnxOneStep
from mobilevd.errors import EffectError, IntegrityError, MobileVDError
from mobilevd.evaluation import fvd, intervals
from mobilevd.params import Recipe
from mobilevd.progress import say, track
from mobilevd.settings import Quantize
from mobilevd.stages import contenders, extractor, lineage, models, prepare, quantize
from mobilevd.stages.contenders import Held
from mobilevd.stages.job import Job
from mobilevd.stages.sampling import decoded
from mobilevd.svd import base as bases
from mobilevd.video import pinned

REPORT, FLOAT, PREPARED = "report.json", "float", "prepare"
WAYS = {
    "onnxruntime W8A16": {"quantizer": "onnxruntime", "activations": "uint16"},
    "onnxruntime W8A8": {"quantizer": "onnxruntime", "activations": "uint8"},
    "aimet W8A16": {"quantizer": "aimet", "activations": "uint16"},
    "aimet W8A8": {"quantizer": "aimet", "activations": "uint8"},
}
OWN = {"rounding": "nearest", "budget_db": None}  # what a way does not say is not the recipe's, which may not fit it
SHOWN = 2  # layers of each quantizer
MB = 1e6
FAILURES = (EffectError, RuntimeError, ValueError, MemoryError)  # a toolkit's own, too; the other ways go on
Features = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Run:
    """The model's recipe and its clips, as its run had them; the float graph, and what judges a clip."""

    recipe: Recipe
    prepared: StageRecord
    held: Held
    base: bases.Base
    source: Path
    features: Features

    @property
    def spec(self) -> inputs.GraphSpec:
        """What the graph takes."""
        return inputs.load(self.source.parent)


def ways(
    rounding: str | None = None,
    iterations: int = 10_000,
    budget_db: float | None = None,
    only: Collection[str] = (),
) -> dict[str, dict]:
    """``WAYS``, and what else is asked for: aimet's with another rounding of the weights, and mixed precision.

    Of them, those with one of the words ``only`` in their name. Errors: MobileVDError for a word that none has.
    """
    found = dict(WAYS)
    if rounding:
        how = {"rounding": rounding, "iterations": iterations}
        found |= {f"{name}, {rounding}": way | how for name, way in WAYS.items() if way["quantizer"] == "aimet"}
    if budget_db is not None:
        mixed = {"quantizer": "onnxruntime", "activations": "mixed", "budget_db": budget_db}
        found[f"onnxruntime mixed, {budget_db:g} dB"] = mixed
    for word in only:
        if not any(word in name for name in found):
            raise MobileVDError("No quantizer is called so", got=word, allowed="; ".join(found), where="--only")
    return {name: way for name, way in found.items() if not only or any(word in name for word in only)}


def compare(model: str, out: Path, how: dict[str, dict], features: Features | None = None) -> list[dict]:
    """Write one graph per way and ``report.json`` to the new folder ``out``, whole or not at all; a row for each.

    Args:
        model: a bundle's folder, ``s3://…`` or ``models:/…``; its recipe's data must be on this machine.
        how: name → keys of the recipe's section ``quantize`` that differ.
        features: of one clip 1 F 3 H W uint8 (default: I3D's).
    A way that fails (weights left in float, a budget that no choice meets) is a row with its ``error``; others stay.
    Errors: MobileVDError when ``out`` exists or a way's toolkit is missing; IntegrityError for a bundle that changed,
    or data or a base that are not the model's.
    """
    if (out := Path(out).resolve()).exists():
        raise MobileVDError("The folder is there already", got=str(out), allowed="a folder to be made", where="OUT")
    if any(way["quantizer"] == "aimet" for way in how.values()):
        aimet.require_installed()
    bundle = models.folder(model, "MODEL")
    aside = out.with_name(out.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    run = _run(bundle, aside, features or extractor.of_i3d().features)
    real = torch.cat([run.features(run.held.video[k : k + 1]) for k in _clips(run, "real clips")])
    plain = _sampled(run, run.source, FLOAT)
    rows = [{"way": FLOAT, "sqnr_db": None, "mb": file_bytes(run.source) / MB} | _distances(real, plain, plain)]
    for name, changes in how.items():
        rows.append({"way": name} | _row(run, aside / _slug(name), changes, real, plain))
    told = {"held_out_clips": len(run.held), "recipe": run.recipe.digest, "data_md5": run.prepared.data_md5}
    write_json(aside / REPORT, {"model": model, **told, "rows": rows})
    for folder in (PREPARED, FLOAT):
        shutil.rmtree(aside / folder, ignore_errors=True)
    aside.rename(out)
    return rows


def shown(rows: list[dict]) -> list[dict]:
    """The rows without what does not fit into a terminal."""
    keys = {"way": "quantizer", "sqnr_db": "SQNR, dB", "mb": "MB", "fvd": "FVD", "fvd_to_float": "to float"}
    told = [{name: row.get(key) for key, name in keys.items()} | {"less float's": _interval(row)} for row in rows]
    seconds = [f"{row['quantize_cpu_s']:.0f}" if "quantize_cpu_s" in row else None for row in rows]
    return [row | {"CPU s": spent} for row, spent in zip(told, seconds, strict=True)]


def lines(rows: list[dict]) -> list[str]:
    """The noisiest layers of every way, the blocks that mixed precision gave 16 bits, and why a way failed."""
    wide = [f"{row['way']}: 16 bits in {', '.join(row['wide_blocks'])}" for row in rows if row.get("wide_blocks")]
    failed = [f"{row['way']}: {row['error']}" for row in rows if "error" in row]
    noisy = [(row["way"], row["noisiest_layers"][:SHOWN]) for row in rows if "noisiest_layers" in row]
    return [f"{way}: {one['layer']} {one['sqnr_db']:.1f} dB" for way, layers in noisy for one in layers] + wide + failed


def _run(bundle: Path, aside: Path, features: Features) -> Run:
    animate.check(bundle)
    recipe = params.check(yaml.safe_load((bundle / lineage.RECIPE).read_text(encoding="utf-8")), "the bundle")
    base = bases.load(recipe.base)
    _require_same(lineage.read(bundle), pinned.md5(recipe.prepare), base.digest)
    prepared = prepare.run(recipe, {}, aside / PREPARED)
    source = _beside(bundle / animate.NETWORKS, aside / FLOAT)
    return Run(recipe, prepared, contenders.held_out(recipe, prepared), base, source, features)


def _require_same(told: dict, data_md5: str, base_digest: str) -> None:
    """Errors: IntegrityError when data or base are others than the model was made of."""
    for what, got, allowed in (("data", data_md5, told["data_md5"]), ("base", base_digest, told["base"]["sha256"])):
        if got != allowed:
            raise IntegrityError(f"The {what} here is not the model's", got=got, allowed=allowed, where=lineage.LINEAGE)


def _beside(networks: Path, folder: Path) -> Path:
    """The float graph in a folder of our own, for what reads it writes beside it; a link to the bytes where one can."""
    folder.mkdir(parents=True)
    for name in (animate.FLOAT, f"{animate.FLOAT}.data", inputs.SPEC_FILE):
        if (networks / name).is_file():
            _link(networks / name, folder / name)
    return folder / animate.FLOAT


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, target)


def _row(run: Run, folder: Path, changes: dict, real: Tensor, plain: Tensor) -> dict:
    """What came of one way, and how far its clips are from the real ones and from float's; or why nothing did."""
    try:
        made, target = _quantized(run, folder, changes)
    except FAILURES as error:
        say(f"{folder.name}: {error}")
        return {"error": str(error), "settings": changes}
    return made | _distances(real, _sampled(run, target, folder.name), plain)


def _quantized(run: Run, folder: Path, changes: dict) -> tuple[dict, Path]:
    """Quantize as the run did, ``changes`` aside; what came of it, and the graph."""
    say(f"quantizing: {folder.name}")
    settings = Quantize.model_validate(run.recipe.quantize.model_dump() | OWN | changes)
    job, spec, target = Job(quantize.STAGE, run.recipe, {"prepare": run.prepared}, folder), run.spec, folder / "q.onnx"
    counts = (settings.calibration_clips, quantize.CHECKED)
    given = [quantize.feeds(job, spec, path, count) for path, count in zip(job.clips(), counts, strict=True)]
    folder.mkdir(parents=True)
    spec.save(folder)
    began, spent = time.perf_counter(), time.process_time()
    made = quantize.quantized(settings, run.source, target, *given)
    return {
        "sqnr_db": made.sqnr_db,
        "mb": file_bytes(target) / MB,
        "quantize_s": time.perf_counter() - began,
        "quantize_cpu_s": time.process_time() - spent,
        "calibration_clips": made.seen.clips,
        "noisiest_layers": [{"layer": name, "sqnr_db": value} for name, value in quantize.worst(made)],
        "blocks": made.blocks,
        "wide_blocks": list(made.chosen.wide),
        "settings": changes,
    }, target


def _sampled(run: Run, graph: Path, name: str) -> Tensor:
    """Features of what the graph makes of every held-out clip's first frame."""
    net = OnnxOneStep(graph, torch.get_num_threads())
    latents = (net(*contenders.asked(run.recipe, run.held, k)) for k in _clips(run, f"clips of {name}"))
    return torch.cat([run.features(decoded(run.base, made)) for made in latents])


def _distances(real: Tensor, made: Tensor, plain: Tensor) -> dict[str, float]:
    """FVD to the real clips, its paired difference to float's with a 95 % interval, and FVD to float's clips."""
    seeded = torch.Generator().manual_seed(0)
    less = intervals.difference(real, made, plain, paired=True, generator=seeded)
    ends = {"fvd_minus_float": less.value, "fvd_minus_float_low": less.low, "fvd_minus_float_high": less.high}
    return {"fvd": fvd.frechet(real, made), "fvd_to_float": fvd.frechet(plain, made)} | ends


def _clips(run: Run, what: str):
    return track(range(len(run.held)), len(run.held), what)


def _interval(row: dict) -> str:
    if "error" in row:
        return "failed"
    value, low, high = (row[f"fvd_minus_float{end}"] for end in ("", "_low", "_high"))
    return f"{value:+.1f} ({low:.1f} to {high:.1f})"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())
