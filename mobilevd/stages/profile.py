"""Profile: time and memory of the quantized network, and of the float one beside it, on one device of the recipe.

An emulated NPU is asked whether it takes the whole graph and computes it right; it has no time. **Keeps** a phone that
was not measured has no figures at all, so that a gate that asks for them fails as missing
(``tests/stages/test_profile.py``).
"""

import resource
import time
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from mobilevd.artifacts import StageRecord, seal, verify
from mobilevd.device import charts, collapse, htp, preflight, targets
from mobilevd.device.export import export
from mobilevd.device.inputs import GraphSpec, load
from mobilevd.device.one_clip import OneClip
from mobilevd.device.profile import ProfileReport, named, profile
from mobilevd.device.quiet import quiet
from mobilevd.device.targets import Target
from mobilevd.params import Recipe
from mobilevd.stages.job import Job
from mobilevd.stages.quantize import CHECKED, FLOAT, ONNX, QUANTIZED, feeds
from mobilevd.stages.shared_run import CHECKPOINTS

STAGE, PHONE = "profile", "phone"
GRAPHS = {"": QUANTIZED, "float_": FLOAT}  # prefix of the figures → graph
BASE, BASE_WARMUP, BASE_REPEATS = "base_", 1, 5
NAMES = {"": "quantized", "float_": "float", BASE: "base"}
SHOWN = 12


def run(recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path, device: str) -> StageRecord:
    """Profile both graphs on ``device``; a phone without access leaves a record that says why it has no figures.

    Inputs: prepare, quantize. Errors: MobileVDError for an unknown device.
    """
    began, target, workdir = time.time(), targets.find(device), Path(workdir).resolve()
    onnx = inputs["quantize"].artifacts[ONNX]
    ways = {"host": _measured, "emulator": _emulated, "phone": _phoned}
    with quiet(device) if target.kind == "host" else nullcontext():  # other kinds wait where they compute, or measure
        parts = ways[target.kind](recipe, inputs, workdir, target)
    return StageRecord(
        stage=STAGE,
        recipe_digest=recipe.digest,
        data_md5=inputs["quantize"].data_md5,
        parents={"quantize": onnx.sha256},
        started_at=began,
        seconds=time.time() - began,
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        **parts,
    )


def lacking(target: Target) -> str | None:
    """Why this machine cannot measure a phone; None when it can, or where ``target`` is none.

    Errors: MobileVDError for a runner that is named and not there.
    """
    if target.kind != "phone":
        return None
    from mobilevd.device import adb, hub, plugged

    if target.runtime == targets.WIRED:
        return None if plugged.runner() is not None and adb.installed() else targets.WIRED_NEED
    return None if hub.configured() else targets.PHONES_NEED


def _phoned(recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path, target: Target) -> dict:
    """Errors: EffectError for a graph that the NPU would not take, a failed job, or other values than float's."""
    from mobilevd.device import hub, phone

    if why := lacking(target):
        return {"facts": {"device": target.name, f"profile.{target.name}": why}}
    if target.runtime == targets.WIRED:
        return _plugged(recipe, inputs, workdir, target)
    onnx, how = inputs["quantize"].artifacts[ONNX], recipe.profile.phone
    verify(onnx.path, onnx.sha256)
    there = how.quantize == "there"
    preflight.check(onnx.path / (FLOAT if there else QUANTIZED), target).require()
    job, spec = Job("quantize", recipe, inputs, workdir), load(onnx.path)
    train, held_out = job.clips()
    task = phone.Task(
        onnx.path / FLOAT,
        onnx.path / QUANTIZED,
        feeds(job, spec, held_out, CHECKED),
        how.runtime,
        recipe.profile.repeats,
        recipe.quantize.activations,
        feeds(job, spec, train, recipe.quantize.calibration_clips) if there else (),
    )
    of = {"graphs": onnx.sha256, "device": target.name, "recipe": recipe.digest}
    session = hub.Hub(workdir / CHECKPOINTS, of, how.timeout_minutes * 60)
    report = phone.measure(session, target, task, workdir / PHONE)
    report.save(workdir / PHONE / "report.json")
    phone.require(report, recipe.quantize.min_sqnr_db)
    return _phones_parts(target, report, workdir)


def _plugged(recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path, target: Target) -> dict:
    """Errors: MobileVDError for a phone that is not there, EffectError for one that is lost or fails."""
    from mobilevd.device import adb, plugged

    tools, onnx, settings = plugged.runner(), inputs["quantize"].artifacts[ONNX], recipe.profile
    verify(onnx.path, onnx.sha256)
    if settings.phone.provider == "qnn":
        preflight.check(onnx.path / QUANTIZED, target).require()
    serial = target.name.removeprefix(targets.PLUGGED).removeprefix(":")
    handset = adb.Phone(serial, settings.phone.timeout_minutes * 60)
    job = Job("quantize", recipe, inputs, workdir)
    [feed] = feeds(job, load(onnx.path), job.clips()[1], 1)
    task = plugged.Task(onnx.path / QUANTIZED, feed, settings.phone.provider, settings.repeats, settings.sustain_s)
    report = plugged.measure(handset, target, task, tools)
    report.save(workdir / PHONE / "report.json")
    return _phones_parts(target, report, workdir)


def _phones_parts(target: Target, report: ProfileReport, workdir: Path) -> dict:
    pictures = {"time by operator": _picture(target, {"": report}, workdir)}
    return {
        "artifacts": {PHONE: seal(workdir / PHONE)},
        "figures": named(report, target),
        "facts": _facts(target, report) | {"off the NPU": "; ".join(report.off_npu) or "nothing"},
        "pictures": pictures | ({"time by block": _blocks(target, {"": report}, workdir)} if report.blocks else {}),
        "tables": {"operators": [operator.model_dump() for operator in report.operators]}
        | ({"blocks": _rows({"": report})} if report.blocks else {}),
    }


def _emulated(recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path, target: Target) -> dict:
    """Errors: EffectError when the NPU leaves nodes to the CPU, or computes something else."""
    onnx = inputs["quantize"].artifacts[ONNX]
    verify(onnx.path, onnx.sha256)
    found = preflight.check(onnx.path / QUANTIZED, target).require()
    job = Job("quantize", recipe, inputs, workdir)
    given = feeds(job, load(onnx.path), job.clips()[1], 1)
    graphs, context = (onnx.path / FLOAT, onnx.path / QUANTIZED), workdir / "npu" / "context.onnx"
    report = htp.check(*graphs, target, context, given, recipe.profile.npu_effort)
    report.save(workdir / "npu" / "report.json")
    htp.require(report, recipe.quantize.min_sqnr_db)
    figures = {name: getattr(report, name) for name in ("sqnr_db", "sqnr_to_cpu_db", "context_mb", "compile_s")}
    silu = collapse.measure(target)
    figures |= {"partitions": float(report.partitions), "fallback_share": found.fallback_share}
    return {
        "artifacts": {"npu": seal(workdir / "npu")},
        "figures": {f"profile.{target.name}.{name}": value for name, value in figures.items()},
        "facts": {
            "device": f"{target.name} ({target.kind}; {target.runtime})",
            "latency": "none: an emulator's time is this machine's, not the phone's",
            "compiler's effort": report.effort,
            "largest tensor": found.largest_tensor,
            "tools": ", ".join(f"{name} {version}" for name, version in report.tools.items()),
            "SiLU": collapse.said(silu),
        },
        "tables": {"SiLU at 16 bits": collapse.rows(silu)},
    }


def _measured(recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path, target: Target) -> dict:
    onnx, settings = inputs["quantize"].artifacts[ONNX], recipe.profile
    verify(onnx.path, onnx.sha256)
    job = Job("quantize", recipe, inputs, workdir)
    [feed] = feeds(job, load(onnx.path), job.clips()[1], 1)
    runs = (feed, target, settings.warmup, settings.repeats)
    reports = {
        prefix: profile(onnx.path / graph, *runs, sustain_s=0.0 if prefix else settings.sustain_s)
        for prefix, graph in GRAPHS.items()
    }
    figures = {k: v for prefix, report in reports.items() for k, v in named(report, target, prefix).items()}
    if settings.base:
        reports[BASE] = _base(job, load(onnx.path), feed, target)
        figures |= named(reports[BASE], target, BASE)
    for prefix, report in reports.items():
        report.save(workdir / "reports" / f"{NAMES[prefix]}.json")
    return {
        "artifacts": {"reports": seal(workdir / "reports")},
        "figures": figures,
        "facts": _facts(target, reports[""]),
        "pictures": {
            "time by operator": _picture(target, reports, workdir),
            "time by block": _blocks(target, reports, workdir),
        },
        "tables": {
            "operators": [operator.model_dump() for operator in reports[""].operators],
            "blocks": _rows(reports),
        },
    }


def _base(job: Job, spec: GraphSpec, feed: dict, target: Target) -> ProfileReport:
    """The network before distillation, in the same form: one of its many evaluations."""
    network, _ = job.network("finetune")
    job.workdir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=job.workdir, prefix="base-") as aside:
        path = Path(aside) / "base.onnx"
        export(OneClip(network), spec, path, job.recipe.quantize.opset)
        return profile(path, feed, target, BASE_WARMUP, BASE_REPEATS)


def _facts(target: Target, report: ProfileReport) -> dict[str, str]:
    return {
        "device": f"{target.name} ({target.kind}; {target.runtime})",
        **report.device,
        **report.protocol,
        "tools": ", ".join(f"{name} {version}" for name, version in report.tools.items()),
    }


def _rows(reports: dict[str, ProfileReport]) -> list[dict]:
    """ms of one run of each network in each block, and in each kind of layer."""
    parts = [("block", "blocks"), ("kind of layer", "kinds")]
    names = [(what, key, part) for what, key in parts for part in _union(getattr(r, key) for r in reports.values())]
    return [
        {"by": what, "part": part} | {f"{NAMES[p]}, ms": getattr(r, key).get(part) for p, r in reports.items()}
        for what, key, part in names
    ]


def _union(groups: Iterable[dict[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for group in groups for name in group))


def _blocks(target: Target, reports: dict[str, ProfileReport], workdir: Path) -> str:
    """The base, or else the quantized network, beside the float one where there is one."""
    prefixes = {"base": BASE, "student": "float_"} if BASE in reports else {"quantized": "", "float": "float_"}
    shown = {name: reports[prefix] for name, prefix in prefixes.items() if prefix in reports}
    panels = [
        charts.Panel("by block of the network", "ms in one traced run", {name: r.blocks for name, r in shown.items()}),
        charts.Panel("by kind of layer", "ms in one traced run", {name: r.kinds for name, r in shown.items()}),
    ]
    title = f"{target.name}: {' beside '.join(shown)}{', both in float' if BASE in reports else ''}; one evaluation"
    return charts.bars(panels, workdir / "pictures" / "blocks.png", title).relative_to(workdir).as_posix()


def _picture(target: Target, reports: dict[str, ProfileReport], workdir: Path) -> str:
    times = {NAMES[p]: {x.kind: x.ms for x in r.operators} for p, r in reports.items() if p != BASE}
    slowest: dict[str, float] = {}
    for kind, ms in (item for time_of in times.values() for item in time_of.items()):
        slowest[kind] = max(ms, slowest.get(kind, 0.0))
    shown = sorted(slowest, key=slowest.__getitem__, reverse=True)[:SHOWN]
    groups = {name: {kind: time_of[kind] for kind in shown if kind in time_of} for name, time_of in times.items()}
    medians = {NAMES[p]: r.figures.get("p50_ms") for p, r in reports.items()}
    p50 = ", ".join(f"{name} {figure.value:.0f} ms" for name, figure in medians.items() if figure)
    panel = charts.Panel("time by operator type", "ms in one traced run", groups)
    drawn = charts.bars([panel], workdir / "pictures" / "operators.png", f"{target.name}: {p50} (median)")
    return drawn.relative_to(workdir).as_posix()
