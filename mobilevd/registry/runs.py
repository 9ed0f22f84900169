"""A run and its stages written down: parameters, data, curves, figures, pictures, nested as they were made.

**Keeps** every point is there once; what follows a user name in an address is never written
(``tests/registry/test_runs.py``, ``test_live.py``).
"""

import json
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilevd.artifacts import StageRecord
from mobilevd.errors import IntegrityError, MobileVDError
from mobilevd.params import Recipe
from mobilevd.registry import tracking
from mobilevd.secrecy import sanitised

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARENT, LIVE_RUN = "mlflow.parentRunId", "mlflow_run"  # LIVE_RUN: the fact of a record whose curves are there already
LONGEST_PARAM, PARAMS_AT_ONCE, METRICS_AT_ONCE = 6000, 100, 1000


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
    client = tracking.connect()
    with tracking.told("MLflow did not take the run", kept=f"every stage's own folder; {tracking.LATER}"):
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


def clear_attempts(experiment: str, bundle_sha256: str) -> int:
    """Delete what earlier attempts left of the run that made this bundle; returns how many. Errors: MobileVDError."""
    client = tracking.connect()
    with tracking.told("MLflow does not tell the runs", kept=tracking.LATER):
        found = client.get_experiment_by_name(experiment)
        runs = client.search_runs([found.experiment_id], f"tags.made_bundle='{bundle_sha256}'") if found else []
        inner = [i for run in runs for i in client.search_runs([found.experiment_id], _nested_in(run.info.run_id))]
        for run in [*inner, *runs]:
            client.delete_run(run.info.run_id)
    return len(runs)


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


def experiment(client: "MlflowClient", name: str) -> str:
    """The id of the experiment called so, made if it is not there. Errors: MobileVDError when it was deleted."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=tracking.artifact_folder())
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

    own = tracking.clean(tags)
    run_id = begun or client.create_run(into, tracking.ms(start_s), tags=own, run_name=name).info.run_id
    if begun:
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in own.items()])
    whole = False
    try:
        yield run_id
        whole = True
    finally:
        if not whole:  # the error goes on; that a store which is down does not take the note either is no news
            with suppress(MlflowException):
                client.set_terminated(run_id, "FAILED", tracking.ms(time.time()))
    client.set_terminated(run_id, "FINISHED", tracking.ms(time.time() if end_s is None else end_s))


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

    missing = [point for point in points if (tracking.key(point[0]), point[2]) not in there]
    metrics = [Metric(tracking.key(name), float(value), tracking.ms(at_s), step) for name, value, step in missing]
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


def _flat(values: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(values, list) and any(isinstance(item, dict) for item in values):
        values = {str(index): item for index, item in enumerate(values)}
    if not isinstance(values, dict):
        return {prefix: values if isinstance(values, str) else json.dumps(values)}
    joined = {f"{prefix}.{key}" if prefix else key: value for key, value in values.items()}
    return {key: text for name, value in joined.items() for key, text in _flat(value, name).items()}
