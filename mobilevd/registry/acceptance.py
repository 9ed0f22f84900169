"""A bundle that passed its gates becomes a version; one that did not is noted on its run.

**Keeps** a version is created last, after its bundle was read back from the store by digest, and only for a passed
verdict (``tests/registry/test_acceptance.py``).
"""

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mobilevd.artifacts import Artifact, file_sha256, verify
from mobilevd.errors import MobileVDError
from mobilevd.params import Recipe
from mobilevd.registry import pyfunc, tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient

PASSED, REJECTED = "passed", "rejected"
MODEL, BUNDLE, REPORT, SETTINGS = "model", "bundle", "gates.json", "pipeline.json"


def register(recipe: Recipe, run_id: str, bundle: Artifact, tags: dict[str, str]) -> str:
    """Store the bundle with its run, read it back, and create the model version; returns the version.

    Errors: MobileVDError when its gate report or its run do not say passed, or MLflow fails; IntegrityError when the
    bundle is not the sealed one, here or in the store. Whatever the error, no version was created.
    """
    verify(bundle.path, bundle.sha256)
    report = passed_report(bundle.path / REPORT, recipe.digest)
    client = tracking.connect()
    with tracking.told("MLflow did not take the bundle", kept=f"the bundle, whole, in {bundle.uri}; {tracking.LATER}"):
        _check_run_passed(client, run_id)
        _check_thresholds(client, run_id, recipe, report)
        _tag_bundle(client, run_id, bundle)
        client.log_artifacts(run_id, bundle.uri, f"{MODEL}/{BUNDLE}")
        _check_stored(client, run_id, bundle)
        described = _describe(client, run_id, bundle)
        _ensure_model(client, recipe.registry.model)
        source = f"{client.get_run(run_id).info.artifact_uri}/{MODEL}"
        own = {"verdict": PASSED, "recipe_digest": recipe.digest, "bundle_sha256": bundle.sha256} | described
        version = client.create_model_version(recipe.registry.model, source, run_id, tags=tracking.clean(tags | own))
    return str(version.version)


def registered(model: str, bundle_sha256: str) -> tuple[str, str] | None:
    """The version, and its run, that hold this very bundle; None when there is none. Errors: MobileVDError."""
    client = tracking.connect()
    with tracking.told("MLflow does not tell the versions", kept=tracking.LATER):
        found = client.search_model_versions(f"name='{model}' and tags.bundle_sha256='{bundle_sha256}'", 1)
    return (str(found[0].version), found[0].run_id) if found else None


def reject(run_id: str, bundle: Artifact) -> None:
    """Note on the run where the bundle lies that was not accepted; there is no version. Errors: MobileVDError."""
    client = tracking.connect()
    kept = f"the bundle, whole, in {bundle.uri}"
    with tracking.told("MLflow did not take the note on the rejected bundle", kept):
        client.set_tag(run_id, "verdict", REJECTED)
        _tag_bundle(client, run_id, bundle)


def passed_report(report: Path, recipe_digest: str) -> dict[str, Any]:
    """A gate report that says, for this recipe, that every gate passed.

    Errors: MobileVDError for a report that is missing or says anything else: rejected, undecided, or nothing.
    """
    said: dict[str, Any] = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
    rows = said.get("rows") or []
    passed = said.get("verdict") == PASSED and rows and all(map(_row_passed, rows))
    if not passed or said.get("recipe") != recipe_digest:
        raise MobileVDError(
            "Only a bundle that passed the gates of its recipe is accepted",
            got=f"verdict {said.get('verdict', 'missing')}, recipe {said.get('recipe', 'missing')}{_not_passed(rows)}",
            allowed=f"verdict {PASSED}, every gate passed, recipe {recipe_digest}",
            where=str(report),
        )
    return said


def _row_passed(row: dict[str, Any]) -> bool:
    return row.get("passed") is True and row.get("status", "pass") in ("pass", PASSED)


def _not_passed(rows: list[dict[str, Any]]) -> str:
    named = [f", {row.get('metric')} {row.get('status', 'not passed')}" for row in rows if not _row_passed(row)]
    return "".join(named)


def _check_run_passed(client: "MlflowClient", run_id: str) -> None:
    verdict = client.get_run(run_id).data.tags.get("verdict", "missing")
    if verdict != PASSED:
        raise MobileVDError("The run did not pass its gates", got=verdict, allowed=PASSED, where=f"run {run_id}")


def _check_thresholds(client: "MlflowClient", run_id: str, recipe: Recipe, report: dict[str, Any]) -> None:
    """Hold the figures that MLflow has of the run against the gates' limits, by MLflow's own validation.

    Errors: MobileVDError naming the gate. The gate's verdict came first: this one says that the store agrees with it.
    """
    from mlflow import validate_evaluation_results
    from mlflow.models import EvaluationResult, MetricThreshold
    from mlflow.models.evaluation.validation import ModelValidationFailedException

    asked, judged = [gate.metric for gate in recipe.gates], [row.get("metric") for row in report["rows"]]
    if asked != judged:
        raise MobileVDError("The report is not of the recipe's gates", got=judged, allowed=", ".join(asked))
    stored = EvaluationResult(metrics=client.get_run(run_id).data.metrics, artifacts={})
    for gate, row in zip(recipe.gates, report["rows"], strict=True):
        if row.get("limit") is None:  # held against a champion when there was none yet
            continue
        limit = MetricThreshold(threshold=float(row["limit"]), greater_is_better=gate.wants_more)
        try:
            validate_evaluation_results({tracking.key(gate.metric): limit}, stored)
        except ModelValidationFailedException as error:
            got = " ".join(str(error).split())
            raise MobileVDError("The run's figures in MLflow do not pass", got=got, where=f"run {run_id}") from None


def _check_stored(client: "MlflowClient", run_id: str, bundle: Artifact) -> None:
    """Read the bundle back from the store and compare every digest; a store on this disk is read in place."""
    place = f"{MODEL}/{BUNDLE}"
    if urlsplit(client.get_run(run_id).info.artifact_uri).scheme in ("", "file"):
        verify(Path(client.download_artifacts(run_id, place)), bundle.sha256)
        return
    with tempfile.TemporaryDirectory() as aside:
        verify(Path(client.download_artifacts(run_id, place, aside)), bundle.sha256)


def _describe(client: "MlflowClient", run_id: str, bundle: Artifact) -> dict[str, str]:
    """Lay MLflow's description beside the stored bundle; its digest, as a tag."""
    settings = json.loads((bundle.path / SETTINGS).read_text(encoding="utf-8"))
    made_at = datetime.fromtimestamp(client.get_run(run_id).info.start_time / 1000, UTC)
    with tempfile.TemporaryDirectory() as aside:
        pyfunc.write(Path(aside), BUNDLE, bundle.sha256, settings, made_at)
        client.log_artifacts(run_id, aside, MODEL)
        return {"mlmodel_sha256": file_sha256(Path(aside) / pyfunc.MLMODEL)}


def _ensure_model(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _tag_bundle(client: "MlflowClient", run_id: str, bundle: Artifact) -> None:
    client.set_tag(run_id, "bundle", bundle.uri)
    client.set_tag(run_id, "bundle_sha256", bundle.sha256)
