"""The gate: every figure of the run against the recipe's gates; the verdict is written down, it is not an error.

**Keeps** a figure is never replaced by another of the same name (``tests/stages/test_gate.py``).
"""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mobilevd.artifacts import StageRecord, seal, verify, write_json
from mobilevd.device import targets
from mobilevd.errors import IntegrityError
from mobilevd.evaluation import fingerprint
from mobilevd.evaluation.gates import CHAMPION, Champion, Origin, Verdict, judge
from mobilevd.params import Recipe
from mobilevd.registry import versions
from mobilevd.registry.ledger import Ledger
from mobilevd.stages.labels import LABELS as CONTENDERS

VERDICT_FILE = "gates.json"
CLASS = ("processor", "system", "threads", "provider", "runtime")  # facts that make two devices one class


def run(recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path, champion: Champion | None = None) -> StageRecord:
    """Judge the figures of all ``inputs``; write ``gates/gates.json`` under ``workdir``.

    The file holds the verdict, one row per gate, the run's figures, its fingerprint and the devices it was timed on, so
    that a later run is held against it (``champion``: see ``read_champion``).
    Errors: IntegrityError without records, for records of different recipes or data, and for a name given twice.
    """
    started = time.time()
    data_md5 = _same_run(recipe, inputs)
    figures, devices = merge(inputs), _devices(inputs)
    verdict = judge(recipe.gates, figures, champion, _origins(inputs, devices))
    word = "passed" if verdict.passed else "rejected"
    rows = [asdict(row) for row in verdict.rows]
    folder = Path(workdir) / "gates"
    told = {"verdict": word, "recipe": recipe.digest, "data_md5": data_md5, "rows": rows, "devices": devices}
    told |= {"figures": {name: value for name, value in figures.items() if math.isfinite(value)}}
    write_json(folder / VERDICT_FILE, told | ({"fingerprint": protocol} if (protocol := _protocol(inputs)) else {}))
    return StageRecord(
        stage="gate",
        recipe_digest=recipe.digest,
        data_md5=data_md5,
        parents=_digests(inputs),
        artifacts={"gates": seal(folder)},
        figures=_counts(verdict),
        facts={"verdict": word},
        tables={"gates": rows},
        started_at=started,
        seconds=time.time() - started,
    )


def against_champion(recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path) -> StageRecord:
    """``run``, with the champion's report out of the registry. Errors: as ``run`` and ``champion_of``."""
    return run(recipe, inputs, workdir, champion_of(recipe))


def champion_of(recipe: Recipe) -> Champion | None:
    """The model to beat, out of its own verified bundle; None when no gate asks for it, and nobody is asked then.

    Errors: MobileVDError when the registry does not answer; IntegrityError when the bundle changed or has no figures.
    """
    if all(gate.of != CHAMPION for gate in recipe.gates):
        return None
    model = recipe.registry.model
    entries = Ledger(versions.ledger_address(model)).history()
    if not entries:
        return Champion(none_yet=True)
    best = entries[-1]
    with versions.bundle(versions.find(model, best.to_version)) as folder:
        verify(folder, best.bundle_sha256)
        return read_champion(folder / VERDICT_FILE)


def read_champion(report: Path) -> Champion:
    """The figures of a model to beat, from its ``gates.json``. Errors: IntegrityError when it holds none."""
    told = json.loads(Path(report).read_text(encoding="utf-8")) if Path(report).is_file() else {}
    if not told.get("figures"):
        raise IntegrityError("The champion's report holds no figures", got=str(report), allowed=f"its {VERDICT_FILE}")
    figures, protocol, devices = told["figures"], told.get("fingerprint", {}), told.get("devices", {})
    return Champion(figures, {name: origin_of(name, protocol, devices) for name in figures})


def merge(inputs: Mapping[str, StageRecord]) -> dict[str, float]:
    """All figures of ``inputs`` in one mapping, under the names that gates use.

    A name with a dot says already what was measured (``student.fvd``, ``profile.host-cpu.p50_ms``) and is kept; a name
    without one gets the stage before it (``seconds`` of finetune: ``finetune.seconds``).
    Errors: IntegrityError when two records give the same name.
    """
    merged: dict[str, float] = {}
    origin: dict[str, str] = {}
    for key, record in inputs.items():
        for name, value in record.figures.items():
            full = name if "." in name else f"{record.stage}.{name}"
            if full in merged:
                got = f"{full} from {origin[full]} and {key}"
                raise IntegrityError("Two records give the same figure", got=got, allowed="one record per name")
            merged[full], origin[full] = value, key
    return merged


def origin_of(name: str, protocol: Mapping[str, Any], devices: Mapping[str, str]) -> Origin:
    """Where a figure came from, by its name: scores have the protocol, times their device, its class and its kind."""
    device = next((device for device in devices if name.startswith(f"profile.{device}.")), None)
    scored = name.rpartition(".")[0] in CONTENDERS
    on = {} if device is None else {"device": devices[device], "kind": targets.find(device).kind}
    return Origin(fingerprint=protocol if scored else {}, **on)


def _origins(inputs: Mapping[str, StageRecord], devices: Mapping[str, str]) -> dict[str, Origin]:
    """Where every figure came from: on which artifacts, when, under which protocol, on which class of device."""
    made = {stage: {a.sha256 for a in record.artifacts.values()} for stage, record in inputs.items()}
    protocol, found = _protocol(inputs), {}
    for record in inputs.values():
        judged = {stage: digest for stage, digest in record.parents.items() if stage in inputs}
        shipped = {s: d if d in made[s] else ", ".join(sorted(made[s])) for s, d in judged.items()}
        ready = max((inputs[s].started_at + inputs[s].seconds for s in judged), default=0.0)
        on = {"judged": judged, "shipped": shipped, "measured_at": record.started_at, "made_at": ready}
        for name in merge({record.stage: record}):
            found[name] = replace(origin_of(name, protocol, devices), **on)
    return found


def _protocol(inputs: Mapping[str, StageRecord]) -> dict[str, Any]:
    return next(filter(None, (fingerprint.of_facts(record.facts) for record in inputs.values())), {})


def _device(record: StageRecord) -> str:
    """Its name, after which the fact says its class and what ran there, in brackets; names may hold brackets, too."""
    return record.facts["device"].rpartition(" (")[0] or record.facts["device"]


def _devices(inputs: Mapping[str, StageRecord]) -> dict[str, str]:
    """Name of each device that was timed on → what it is."""
    timed = [record for record in inputs.values() if record.stage == "profile" and record.figures]
    return {
        _device(record): ", ".join(record.facts[key] for key in CLASS if key in record.facts)
        for record in timed
        if "device" in record.facts
    }


def _same_run(recipe: Recipe, inputs: Mapping[str, StageRecord]) -> str:
    if not inputs:
        raise IntegrityError("The gate got no records", allowed="the records of the stages whose figures it judges")
    if strangers := [key for key, record in inputs.items() if record.recipe_digest != recipe.digest]:
        raise IntegrityError("Records of another recipe", got=", ".join(strangers), allowed=recipe.digest)
    data = {record.data_md5 for record in inputs.values()}
    if len(data) > 1:
        raise IntegrityError("Records of different data", got=", ".join(sorted(data)), allowed="one data set per run")
    return data.pop()


def _digests(inputs: Mapping[str, StageRecord]) -> dict[str, str]:
    return {f"{key}.{name}": a.sha256 for key, record in inputs.items() for name, a in record.artifacts.items()}


def _counts(verdict: Verdict) -> dict[str, float]:
    passed = sum(row.passed for row in verdict.rows)
    return {"gates.passed": float(passed), "gates.failed": float(len(verdict.rows) - passed)}
