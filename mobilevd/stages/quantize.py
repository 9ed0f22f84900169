"""Quantize: the one-step network as an ONNX graph, and as one with 8-bit weights, calibrated on real latents.

**Keeps** parity with torch of the float graph, no weight left in float unnoticed, and the recipe's SQNR on held-out
clips (``tests/stages/test_quantize.py``).
"""

import resource
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mobilevd.artifacts import StageRecord, seal
from mobilevd.device import aimet, calibrate, charts, mixed, noise, rows
from mobilevd.device.export import export, file_bytes, parity_db
from mobilevd.device.fidelity import sqnr_db
from mobilevd.device.inputs import GraphSpec, one_step
from mobilevd.device.one_clip import OneClip, unbatched
from mobilevd.device.quantize import quantize
from mobilevd.device.session import open_session
from mobilevd.errors import EffectError
from mobilevd.params import Recipe
from mobilevd.progress import track
from mobilevd.settings import Quantize
from mobilevd.stages.job import Job
from mobilevd.svd.sampler import OneStep, clip_noise
from mobilevd.training import data, seeds

STAGE = "quantize"
ONNX, FLOAT, QUANTIZED = "onnx", "float.onnx", "quantized.onnx"
CHECKED = 4  # held-out clips on which the output is compared
WORST = 8  # layers that the card names
MB = 1e6

Feeds = list[dict[str, np.ndarray]]


class Result(NamedTuple):
    """What quantization did: lowest SQNR on held-out clips, widths and nodes, dB by layer, what calibration saw.

    ``rows``: layers whose weights 8 bits did not hold and that got 16.
    """

    sqnr_db: float
    chosen: mixed.Chosen
    layers: dict[str, float]
    seen: calibrate.Seen
    rows: list[rows.Row]

    @property
    def blocks(self) -> dict[str, float]:
        """The lowest SQNR in each block of the network, the noisiest first."""
        return noise.blocks(self.layers)


def run(recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path) -> StageRecord:
    """Export, calibrate, quantize, compare; leave the sealed folder ``onnx`` with both graphs and ``inputs.json``.

    Inputs: prepare, funnel. Errors: EffectError when the graph is not torch's function, a weight stayed in float, the
    file did not shrink, or the SQNR is under ``quantize.min_sqnr_db``.
    """
    job, settings, began = Job(STAGE, recipe, inputs, Path(workdir)), recipe.quantize, time.time()
    folder = job.workdir / ONNX
    shutil.rmtree(folder, ignore_errors=True)  # what a killed export left would be sealed, and shipped
    network, _ = job.network("funnel")
    step = OneStep(network.requires_grad_(False)).eval()
    train, held_out = job.clips()
    spec = _spec(train)
    calibration, checked = feeds(job, spec, train, settings.calibration_clips), feeds(job, spec, held_out, CHECKED)
    export(OneClip(network), spec, folder / FLOAT, settings.opset)
    spec.save(folder)
    parity = parity_db(unbatched(step), folder / FLOAT, spec, checked)
    graphs = (folder / FLOAT, folder / QUANTIZED)
    result = _require(quantized(settings, *graphs, calibration, checked), settings.min_sqnr_db)
    sizes = _sizes(folder)
    return StageRecord(
        stage=STAGE,
        recipe_digest=recipe.digest,
        data_md5=inputs["prepare"].data_md5,
        parents=job.parents,
        artifacts={ONNX: seal(folder)},
        figures={
            "quantize.sqnr_db": result.sqnr_db,
            "quantize.parity_db": parity,
            "quantize.float_mb": sizes["float"],
            "quantize.quantized_mb": sizes["quantized"],
            "quantize.calibration_clips": float(result.seen.clips),
        },
        facts=_facts(recipe, result, len(checked)),
        pictures={"sizes and noise": _picture(result, sizes, job.workdir)},
        tables=_tables(result),
        started_at=began,
        seconds=time.time() - began,
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def feeds(job: Job, spec: GraphSpec, path: Path, count: int) -> Feeds:
    """What the network sees at inference: image latents and tokens of up to ``count`` clips, seeded noise, the ids.

    In no order of theirs: clips lie sorted by their sources, and calibration ends when two in a row bring nothing new.
    """
    clips = data.Clips(path)
    spread = [round(i) for i in np.linspace(0, len(clips) - 1, min(count, len(clips)))]
    picked = np.random.default_rng(seeds.derive(job.seed, path.stem, "order")).permutation(spread).tolist()
    batch, ids = clips.batch(picked), job.ids()
    noises = clip_noise([seeds.derive(job.seed, path.stem, i) for i in picked], clips.shape)
    rows = zip(noises, batch.image_latents.split(1), batch.tokens.split(1), strict=True)
    return [dict(zip(spec.names, (t.numpy() for t in (*row, ids)), strict=True)) for row in rows]


def _spec(path: Path) -> GraphSpec:
    clips = data.Clips(path)
    return one_step(*clips.shape, token_dim=clips.batch([0]).tokens.shape[-1])


def quantized(settings: Quantize, source: Path, target: Path, calibration: Feeds, checked: Feeds) -> Result:
    """Write the quantized form of the float graph ``source`` to ``target`` as ``settings`` say, and look at its noise.

    The SQNR is not judged. Errors: EffectError for a weight left in float, or a budget that is not met.
    """
    shown = track(calibration, len(calibration), "calibrating")
    seen = calibrate.observe(source, shown, settings.calibration_tolerance)
    under = [] if settings.activations == "uint8" else rows.under(source, settings.row_db)
    chosen = _write(settings, source, target, calibration, seen, [row.weight for row in under])
    if chosen.alone:
        under = [row for row in under if noise.block(row.layer) in chosen.wide]
    layers = noise.by_layer(source, target, checked[0])
    both = [_outputs(path, checked) for path in (source, target)]  # one graph's weights in memory at a time
    least = min(sqnr_db(*pair) for pair in zip(*both, strict=True))
    return Result(least, chosen, layers, seen, under)


def _outputs(graph: Path, feeds: Feeds) -> list[np.ndarray]:
    session = open_session(graph)
    return [session.run(None, feed)[0] for feed in feeds]


def _write(
    settings: Quantize, source: Path, target: Path, calibration: Feeds, seen: calibrate.Seen, weights: list[str]
) -> mixed.Chosen:
    if settings.quantizer == "aimet":
        how = (settings.activations, settings.rounding, settings.iterations, weights)
        return mixed.Chosen({}, (), aimet.quantize(source, target, calibration[: seen.clips], *how))
    if settings.budget_db is not None:
        return mixed.choose(source, target, seen.ranges, calibration[:CHECKED], settings.budget_db, weights)
    return mixed.Chosen({}, (), quantize(source, target, seen.ranges, settings.activations, weights=weights))


def _require(result: Result, lowest: float) -> Result:
    """Errors: EffectError under the recipe's SQNR, naming the noisiest blocks."""
    if not result.sqnr_db >= lowest:
        noisiest = ", ".join(f"{name} {value:.1f} dB" for name, value in list(result.blocks.items())[:3])
        raise EffectError(
            "The quantized network is too far from the float one",
            got=f"{result.sqnr_db:.1f} dB at the output; noisiest blocks: {noisiest}",
            allowed=f"{lowest:g} dB or more",
            where="quantize.activations, quantize.calibration_clips or quantize.min_sqnr_db in the recipe",
        )
    return result


def _sizes(folder: Path) -> dict[str, float]:
    """MB of both graphs. Errors: EffectError when quantization did not make the file smaller."""
    sizes = {name: file_bytes(folder / file) / MB for name, file in (("float", FLOAT), ("quantized", QUANTIZED))}
    if not sizes["quantized"] < sizes["float"]:
        raise EffectError(
            "Quantization was declared to save bytes and did not",
            got=f"{sizes['quantized']:.2f} MB after, {sizes['float']:.2f} MB before",
            allowed="fewer than before",
        )
    return sizes


def _facts(recipe: Recipe, result: Result, checked: int) -> dict[str, str]:
    settings = recipe.quantize
    wide = f" (16 bits in {', '.join(result.chosen.wide) or 'no block'})" if result.chosen.alone else ""
    rows = f" (int16 in {', '.join(_layer(row.layer) for row in result.rows)})" if result.rows else ""
    widths = f"{settings.weights} weights{rows}, {settings.activations} activations{wide}"
    return {
        "precision": f"{widths}, QDQ, opset {settings.opset}",
        "quantizer": f"{settings.quantizer}, weights rounded by {settings.rounding}",
        "calibration": f"smallest and largest values on {result.seen.clips} training clips",
        "sqnr": f"the lowest of {checked} validation clips, quantized against float, ONNX Runtime on the host's CPU",
    }


def worst(result: Result, count: int = WORST) -> list[tuple[str, float]]:
    """The noisiest layers, named after their modules, and their SQNR in dB."""
    return [(_layer(name), value) for name, value in result.layers.items()][:count]


def _layer(node: str) -> str:
    return node.partition("/")[0].removeprefix("unet.")


def _tables(result: Result) -> dict[str, list[dict]]:
    steps, chosen = enumerate(result.seen.widened, start=2), result.chosen
    alone = [(name, round(value, 1), 16 if name in chosen.wide else 8) for name, value in chosen.alone.items()]
    names = ("block", "SQNR with it alone in 8 bits, dB", "bits")
    tables = {
        "sensitivity": [dict(zip(names, row, strict=True)) for row in alone],
        "calibration": [{"clips": clips, "ranges wider by, %": round(100 * share, 2)} for clips, share in steps],
        "blocks": [{"block": name, "lowest SQNR, dB": round(value, 1)} for name, value in result.blocks.items()],
        "weights in 16 bits": [
            {"layer": _layer(row.layer), "worst row in 8 bits, dB": round(row.db, 1)} for row in result.rows
        ],
        "noisiest layers": [{"layer": name, "SQNR, dB": round(value, 1)} for name, value in worst(result)],
        "operators": [asdict(kind) for kind in result.chosen.kinds],
    }
    return {name: rows for name, rows in tables.items() if rows}


def _picture(result: Result, sizes: dict[str, float], workdir: Path) -> str:
    size = charts.Panel("size of the graph", "MB", {"": sizes})
    blocks = charts.Panel("lowest in each block, the noisiest first", "SQNR, dB", {"": result.blocks})
    title = f"quantized against float: {result.sqnr_db:.1f} dB at the output"
    return charts.bars([size, blocks], workdir / "pictures" / "quantize.png", title).relative_to(workdir).as_posix()
