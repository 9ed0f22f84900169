"""Registered versions for the tests of promotion: bundles with gates and lineage but no network worth running."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import mlflow_store
import yaml

from mobilevd.artifacts import Artifact, file_sha256, seal, write_json
from mobilevd.params import Recipe, check
from mobilevd.registry import acceptance, tracking, versions
from mobilevd.stages import lineage

MODEL = "mobilevd"
ADVERSARIAL = {"steps": 1, "generator": {"lr": 1.0e-3}, "discriminator": {"lr": 1.0e-3}}
SECTIONS = {
    "name": "tiny",
    "finetune": {"steps": 1, "optim": {"lr": 1.0e-3}},
    "distill": {"adversarial": ADVERSARIAL},
    "prune": {"keep": 1, "adversarial": ADVERSARIAL},
    "funnel": {"adversarial": ADVERSARIAL},
    "gates": [{"metric": "student.fvd", "max": 900.0}],
}
DATA = "d" * 32
PROTOCOL = {"clips": 16, "fps": 7.0}


@cache
def recipe() -> Recipe:
    return check(SECTIONS)


def report(**changes) -> dict[str, Any]:
    rows = [{"metric": "student.fvd", "passed": True, "limit": 900.0}]
    told = {"verdict": "passed", "recipe": recipe().digest, "data_md5": DATA, "rows": rows, "fingerprint": PROTOCOL}
    return told | changes


def offer(
    workdir: Path, fill: Callable[[Path], Any] | None = None, reported: dict[str, Any] | None = None, **told
) -> str:
    """Register a bundle whose stages, gate report and lineage fit together; returns its version.

    ``fill`` writes networks into the bundle that can be run, instead of the few bytes that stand for them; ``told`` is
    what else, or what other, the lineage says, and ``reported`` what the gate's report does.
    """
    gates, client = workdir / "gates", mlflow_store.client()
    write_json(gates / lineage.REPORT, report(data_md5=told.get("data_md5", DATA), **(reported or {})))
    shipped = bundle(workdir / "bundle", seal(gates), fill or few_bytes, reported, **told)
    if (experiment := client.get_experiment_by_name(MODEL)) is None:
        made = client.create_experiment(MODEL, artifact_location=tracking.artifact_folder())
    run = client.create_run(experiment.experiment_id if experiment else made, tags={"verdict": acceptance.PASSED})
    client.log_metric(run.info.run_id, "student.fvd", 812.5)
    client.log_artifacts(run.info.run_id, str(gates), versions.REPORT_FOLDER)
    return acceptance.register(recipe(), run.info.run_id, shipped, {})


def few_bytes(folder: Path) -> None:
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "weights.safetensors").write_text(str(folder))
    clip = {"frames": 3, "fps": 7.0, "width": 64, "height": 64}
    write_json(folder / acceptance.SETTINGS, {"clip": clip, "motion_bucket": 127, "augmentation_sigma": 0.02})


def bundle(
    folder: Path, gates: Artifact, fill: Callable[[Path], Any], reported: dict[str, Any] | None = None, **more
) -> Artifact:
    fill(folder)
    (folder / "onnx").mkdir()
    (folder / "onnx" / "quantized.onnx").write_text("graph")
    write_json(folder / lineage.REPORT, report(data_md5=more.get("data_md5", DATA), **(reported or {})))
    (folder / lineage.RECIPE).write_text(yaml.safe_dump(recipe().model_dump(mode="json")))
    network = lineage.sealed_sha256({f"unet/{p.name}": file_sha256(p) for p in (folder / "unet").iterdir()})
    onnx = lineage.sealed_sha256({"quantized.onnx": file_sha256(folder / "onnx" / "quantized.onnx")})
    stages = {
        "prepare": {"artifacts": {"latents": "1" * 64}, "parents": {"base": "b" * 64}},
        "funnel": {"artifacts": {"network": network}, "parents": {"prepare": "1" * 64}},
        "quantize": {"artifacts": {"onnx": onnx}, "parents": {"funnel": network}},
        "gate": {"artifacts": {"gates": gates.sha256}, "parents": {"funnel.network": network, "quantize.onnx": onnx}},
    }
    stages = {name: stage | {"started_at": 1000.0, "seconds": 10.0} for name, stage in stages.items()}
    told = {"recipe": {"name": "tiny", "sha256": recipe().digest}, "data_md5": DATA, "stages": stages}
    told |= {"base": {"name": "pocket", "sha256": "b" * 64}, "git_commit": "unknown", "versions": {}}
    write_json(folder / lineage.LINEAGE, told | more)
    return seal(folder)


def stored(version: str) -> Path:
    """The bundle's folder in the store."""
    with versions.bundle(versions.find(MODEL, version)) as folder:
        return folder


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
