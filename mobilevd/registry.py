"""Where runs are written down and accepted models are offered: MLflow, on a file beside the project by default.

**Keeps** a version is created last, after its bundle was read back from the store by digest, and only for a passed
verdict; what follows a user name in an address is never written (``tests/test_registry.py``).
"""

import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mobilevd import objects, pyfunc
from mobilevd.artifacts import Artifact, StageRecord, file_sha256, verify
from mobilevd.errors import IntegrityError, MobileVDError, sanitised
from mobilevd.packages import project_root
from mobilevd.params import Recipe

if TYPE_CHECKING:
    from mlflow import MlflowClient

PASSED, REJECTED = "passed", "rejected"
MODEL, BUNDLE, REPORT, SETTINGS = "model", "bundle", "gates.json", "pipeline.json"
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",  # 2 + 4 + 8 + 16 s between them; the usual seven take minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "3600",
}
PARENT, LIVE_RUN = "mlflow.parentRunId", "mlflow_run"  # LIVE_RUN: the fact of a record whose curves are there already
LATER = "no version was created; `mobilevd register --resume` completes it"
LONGEST_PARAM, PARAMS_AT_ONCE, METRICS_AT_ONCE = 6000, 100, 1000


def tracking_uri() -> str:
    """``MLFLOW_TRACKING_URI``, or the SQLite file ``mlflow.db`` in the project."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root() / 'mlflow.db'}"


def log_run(
    recipe: Recipe,
    records: dict[str, StageRecord],
    verdict: str,
    pages: Sequence[Path],
    tags: dict[str, str] | None = None,
) -> str:
    """Write down one run and, nested in it, one run per record in the order given; returns the outer run's id.

    ``pages`` are files or folders for people, kept as they are. Errors: MobileVDError when MLflow does not take it.
    """
    client = connect()
    with told("MLflow did not take the run", kept=f"every stage's own folder; {LATER}"):
        into = experiment(client, recipe.registry.experiment)
        own = {"verdict": verdict, "recipe": recipe.name, "recipe_digest": recipe.digest} | (tags or {})
        started_at = min((r.started_at for r in records.values()), default=time.time())
        with _run(client, into, f"{recipe.name} {recipe.digest[:8]}", started_at, None, own) as run_id:
            _log_params(client, run_id, recipe)
            _log_dataset(client, run_id, recipe, records)
            for name, record in records.items():
                _log_stage(client, into, run_id, name, record)
            _log_metrics(client, run_id, _all_figures(records), time.time())
            for page in pages:
                _log_page(client, run_id, Path(page))
    return run_id


def register(recipe: Recipe, run_id: str, bundle: Artifact, tags: dict[str, str]) -> str:
    """Store the bundle with its run, read it back, and create the model version; returns the version.

    Errors: MobileVDError when its gate report or its run do not say passed, or MLflow fails; IntegrityError when the
    bundle is not the sealed one, here or in the store. Whatever the error, no version was created.
    """
    verify(bundle.path, bundle.sha256)
    report = passed_report(bundle.path / REPORT, recipe.digest)
    client = connect()
    with told("MLflow did not take the bundle", kept=f"the bundle, whole, in {bundle.uri}; {LATER}"):
        _check_run_passed(client, run_id)
        _check_thresholds(client, run_id, recipe, report)
        _tag_bundle(client, run_id, bundle)
        client.log_artifacts(run_id, bundle.uri, f"{MODEL}/{BUNDLE}")
        _check_stored(client, run_id, bundle)
        described = _describe(client, run_id, bundle)
        _ensure_model(client, recipe.registry.model)
        source = f"{client.get_run(run_id).info.artifact_uri}/{MODEL}"
        own = {"verdict": PASSED, "recipe_digest": recipe.digest, "bundle_sha256": bundle.sha256} | described
        version = client.create_model_version(recipe.registry.model, source, run_id, tags=_clean(tags | own))
    return str(version.version)


def registered(model: str, bundle_sha256: str) -> tuple[str, str] | None:
    """The version, and its run, that hold this very bundle; None when there is none. Errors: MobileVDError."""
    client = connect()
    with told("MLflow does not tell the versions", kept=LATER):
        found = client.search_model_versions(f"name='{model}' and tags.bundle_sha256='{bundle_sha256}'", 1)
    return (str(found[0].version), found[0].run_id) if found else None


def clear_attempts(experiment: str, bundle_sha256: str) -> int:
    """Delete what earlier attempts left of the run that made this bundle; returns how many. Errors: MobileVDError."""
    client = connect()
    with told("MLflow does not tell the runs", kept=LATER):
        found = client.get_experiment_by_name(experiment)
        runs = client.search_runs([found.experiment_id], f"tags.made_bundle='{bundle_sha256}'") if found else []
        inner = [i for run in runs for i in client.search_runs([found.experiment_id], _nested_in(run.info.run_id))]
        for run in [*inner, *runs]:
            client.delete_run(run.info.run_id)
    return len(runs)


def reject(run_id: str, bundle: Artifact) -> None:
    """Note on the run where the bundle lies that was not accepted; there is no version. Errors: MobileVDError."""
    client = connect()
    with told("MLflow did not take the note on the rejected bundle", kept=f"the bundle, whole, in {bundle.uri}"):
        client.set_tag(run_id, "verdict", REJECTED)
        _tag_bundle(client, run_id, bundle)


def pictures(record: StageRecord) -> dict[str, Path]:
    """The files of a record's pictures, which lie relative to the folder that holds its artifacts.

    Errors: IntegrityError naming the picture that is gone.
    """
    found: dict[str, Path] = {}
    for name, relative in record.pictures.items():
        files = (artifact.beside(relative) for artifact in record.artifacts.values())
        if (file := next(filter(None, files), None)) is None:
            folders = sorted({artifact.uri.rpartition("/")[0] for artifact in record.artifacts.values()})
            tried = ", ".join(folders) or "no folder, since the stage left no artifacts"
            raise IntegrityError(f"A picture of {record.stage} is gone", got=relative, where=tried)
        found[name] = file
    return found


def connect() -> "MlflowClient":
    """MLflow at ``tracking_uri``, with its own chatter off. Errors: MobileVDError when it cannot be reached."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    with told("MLflow cannot be reached", kept="everything that was made"):
        return MlflowClient(tracking_uri=tracking_uri())


@contextmanager
def told(what: str, kept: str) -> Iterator[None]:
    """Turn MLflow's errors into ours, without credentials; ``kept`` says what is not lost."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, *objects.failures()) as error:
        raise MobileVDError(
            f"{what}; kept: {kept}",
            got=sanitised(f"{type(error).__name__}: {error}").split("\n", 1)[0],
            allowed="a store that answers and has room",
            where=f"MLFLOW_TRACKING_URI, now {sanitised(tracking_uri())}",
        ) from None


def artifact_folder() -> str | None:
    """Beside a SQLite file, as an absolute address; None where a server decides."""
    address = tracking_uri()
    if urlsplit(address).scheme in ("http", "https", "databricks"):
        return None
    file = address.removeprefix("sqlite:///")
    home = Path(file).resolve().parent if file != address else project_root()
    return (home / "mlruns").as_uri()


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


def experiment(client: "MlflowClient", name: str) -> str:
    """The id of the experiment called so, made if it is not there. Errors: MobileVDError when it was deleted."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=artifact_folder())
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    if found.lifecycle_stage != "active":
        raise MobileVDError("The experiment was deleted", got=name, allowed="another name", where="registry.experiment")
    return found.experiment_id


@contextmanager
def _run(
    client: "MlflowClient",
    into: str,
    name: str,
    start_s: float,
    end_s: float | None,
    tags: dict[str, str],
    begun: str | None = None,
) -> Iterator[str]:
    """A run from ``start_s`` to ``end_s`` (None: until now), or the one that was ``begun``; FAILED when the body is."""
    from mlflow.entities import RunTag
    from mlflow.exceptions import MlflowException

    run_id = begun or client.create_run(into, _ms(start_s), tags=_clean(tags), run_name=name).info.run_id
    if begun:
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in _clean(tags).items()])
    whole = False
    try:
        yield run_id
        whole = True
    finally:
        if not whole:  # the error goes on; that a store which is down does not take the note either is no news
            with suppress(MlflowException):
                client.set_terminated(run_id, "FAILED", _ms(time.time()))
    client.set_terminated(run_id, "FINISHED", _ms(time.time() if end_s is None else end_s))


def _nested_in(run_id: str) -> str:
    return f"tags.{PARENT}='{run_id}'"


def _log_stage(client: "MlflowClient", into: str, parent: str, name: str, record: StageRecord) -> None:
    end_s = record.started_at + record.seconds
    tags = {PARENT: parent, "stage": record.stage, "data_md5": record.data_md5} | record.facts
    tags |= {f"artifact.{key}": artifact.sha256 for key, artifact in record.artifacts.items()}
    tags |= {f"parent.{key}": digest for key, digest in record.parents.items()}
    begun = _begun(client, into, record)
    with _run(client, into, name, record.started_at, end_s, tags, begun) as run_id:
        own = {"seconds": record.seconds, "peak_memory_mb": record.peak_memory_mb}
        _log_metrics(client, run_id, own | record.figures, end_s)
        _log_curves(client, run_id, record, end_s, begun is not None)
        client.log_text(run_id, sanitised(record.model_dump_json(indent=2)), "record.json")
        for picture in pictures(record).values():
            client.log_artifact(run_id, str(picture), "pictures")


def _begun(client: "MlflowClient", into: str, record: StageRecord) -> str | None:
    """The run to which the stage's training sent its curves, if it is still there and no other run's stage."""
    asked = f"attributes.run_id = '{record.facts.get(LIVE_RUN, '')}'"
    found = client.search_runs([into], asked) if LIVE_RUN in record.facts else []
    return next((run.info.run_id for run in found if PARENT not in run.data.tags), None)


def _log_dataset(client: "MlflowClient", run_id: str, recipe: Recipe, records: dict[str, StageRecord]) -> None:
    """The clips as MLflow's dataset, whose digest is the one that DVC pins."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    data, prepared = sanitised(recipe.prepare.data), records.get("prepare")
    for digest in {record.data_md5 for record in records.values()}:
        profile = json.dumps(prepared.figures if prepared else {}, sort_keys=True)
        source = json.dumps({"uri": data})
        dataset = Dataset(Path(data).name, digest, "local", source, profile=profile)
        client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def _log_params(client: "MlflowClient", run_id: str, recipe: Recipe) -> None:
    from mlflow.entities import Param

    flat = _flat(recipe.model_dump(mode="json"))
    params = [Param(key, sanitised(value)[:LONGEST_PARAM]) for key, value in flat.items()]
    for start in range(0, len(params), PARAMS_AT_ONCE):
        client.log_batch(run_id, params=params[start : start + PARAMS_AT_ONCE])


def _log_metrics(client: "MlflowClient", run_id: str, figures: dict[str, float], at_s: float, step: int = 0) -> None:
    log_points(client, run_id, [(name, value, step) for name, value in figures.items()], at_s)


def _log_curves(client: "MlflowClient", run_id: str, record: StageRecord, at_s: float, begun: bool) -> None:
    """Every point that is not there yet."""
    points = [(name, value, step) for name, curve in record.curves.items() for step, value in curve]
    log_points(client, run_id, points, at_s, logged(client, run_id) if begun else set())


def logged(client: "MlflowClient", run_id: str) -> set[tuple[str, int]]:
    """Name and step of every point that a run holds."""
    names = client.get_run(run_id).data.metrics
    return {(name, point.step) for name in names for point in client.get_metric_history(run_id, name)}


def log_points(
    client: "MlflowClient",
    run_id: str,
    points: list[tuple[str, float, int]],
    at_s: float,
    there: Set[tuple[str, int]] = frozenset(),
) -> None:
    """Points (name, value, step) but those that are ``there``, in as few requests as MLflow allows."""
    from mlflow.entities import Metric

    missing = [point for point in points if (_key(point[0]), point[2]) not in there]
    metrics = [Metric(_key(name), float(value), _ms(at_s), step) for name, value, step in missing]
    for start in range(0, len(metrics), METRICS_AT_ONCE):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_AT_ONCE])


def _log_page(client: "MlflowClient", run_id: str, page: Path) -> None:
    if page.is_dir():
        client.log_artifacts(run_id, str(page), f"pages/{page.name}")
    else:
        client.log_artifact(run_id, str(page), "pages")


def _all_figures(records: dict[str, StageRecord]) -> dict[str, float]:
    """Every figure under the name that gates use: as it is with a dot in it, the stage before it otherwise."""
    named = ((r, name, value) for r in records.values() for name, value in r.figures.items())
    return {name if "." in name else f"{record.stage}.{name}": value for record, name, value in named}


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
            validate_evaluation_results({_key(gate.metric): limit}, stored)
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


def _flat(values: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(values, list) and any(isinstance(item, dict) for item in values):
        values = {str(index): item for index, item in enumerate(values)}
    if not isinstance(values, dict):
        return {prefix: values if isinstance(values, str) else json.dumps(values)}
    joined = {f"{prefix}.{key}" if prefix else key: value for key, value in values.items()}
    return {key: text for name, value in joined.items() for key, text in _flat(value, name).items()}


def _clean(tags: dict[str, str]) -> dict[str, str]:
    return {_key(name): sanitised(str(value)) for name, value in tags.items()}


def _key(name: str) -> str:
    return re.sub(r"[^\w./ -]", "_", name)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
