"""What was registered, read back: a version, its bundle and its gate report in the store, and its aliases.

**Keeps** nothing here decides who is champion: aliases are set as told (``tests/stages/test_promote.py``).
"""

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mobilevd.artifacts import file_sha256
from mobilevd.errors import MobileVDError
from mobilevd.registry import acceptance, pyfunc, tracking
from mobilevd.secrecy import sanitised

REPORT_FOLDER = "pages/gates"
LEDGER = "MOBILEVD_LEDGER"
KEPT = "every version and the ledger"
AT_ONCE = 500  # of a search's answer; the rest is on its next pages


@dataclass(frozen=True)
class Version:
    """One registered version: where its bundle lies, the run it came from ("" for none), and what was noted on it."""

    model: str
    number: str
    run_id: str
    source: str
    tags: dict[str, str]


def newest(model: str) -> Version:
    """The version registered last. Errors: MobileVDError when there is none, or MLflow does not answer."""
    client = tracking.connect()
    with tracking.told("MLflow does not tell the versions", kept=KEPT):
        found = client.search_model_versions(f"name='{_checked(model)}'", 1, ["version_number DESC"])
    if not found:
        raise MobileVDError("No version is registered", got=model, allowed="a model that a passed run registered")
    return _version(found[0])


def require(model: str) -> None:
    """Refuse a model that nobody registered. Errors: MobileVDError naming those that are, or MLflow does not answer."""
    client = tracking.connect()
    with tracking.told("MLflow does not tell the models", kept=KEPT):
        if client.search_registered_models(f"name='{_checked(model)}'", 1):
            return
        known = ", ".join(found.name for found in client.search_registered_models()) or "none is registered yet"
    raise MobileVDError("There is no such model", got=model, allowed=known, where="--model")


def every(model: str) -> list[Version]:
    """All versions of a model, none where it is unknown. Errors: MobileVDError when MLflow does not answer."""
    client = tracking.connect()
    with tracking.told("MLflow does not tell the versions", kept=KEPT):
        return [_version(found) for found in client.search_model_versions(f"name='{_checked(model)}'")]


def of_all_models() -> list[Version]:
    """All versions of every registered model, others' models too. Errors: MobileVDError when MLflow does not answer."""
    client = tracking.connect()
    with tracking.told("MLflow does not tell the models", kept=KEPT):
        named = [_quoted(model.name) for model in _whole(client.search_registered_models)]
        found = [item for name in named for item in _whole(client.search_model_versions, f"name={name}")]
    return [_version(item) for item in found]


def find(model: str, number: str, where: str = "--version") -> Version:
    """One version; ``where`` it was asked for. Errors: MobileVDError when there is no such version, or no answer."""
    client = tracking.connect()
    with tracking.told("MLflow does not tell the version", kept=KEPT):
        found = client.search_model_versions(f"name='{_checked(model)}'")
    for version in found:
        if str(version.version) == number:
            return _version(version)
    known = ", ".join(sorted((str(version.version) for version in found), key=int)) or "none"
    raise MobileVDError("There is no such version", got=f"{model} {number}", allowed=known, where=where)


def aliased(model: str, alias: str, where: str = "--model") -> Version:
    """The version that an alias, asked for ``where``, points to. Errors: MobileVDError when there is no such alias."""
    found = aliases(model)
    if alias not in found:
        known = ", ".join(f"{name} (version {number})" for name, number in sorted(found.items())) or "none yet"
        raise MobileVDError("There is no such alias", got=f"{model}@{alias}", allowed=known, where=where)
    return find(model, found[alias], where)


@contextmanager
def bundle(version: Version) -> Iterator[Path]:
    """The folder that loading the version reads; one on this disk in place, another is fetched and taken away again.

    Errors: MobileVDError when it is gone or the store does not answer.
    """
    if (model := _local(version.source)) is not None:
        yield model / acceptance.BUNDLE
        return
    import mlflow

    with tempfile.TemporaryDirectory() as aside:
        with tracking.told("The bundle cannot be fetched", kept=KEPT):
            uri = tracking.uri()
            source = f"{version.source}/{acceptance.BUNDLE}"
            folder = Path(mlflow.artifacts.download_artifacts(source, dst_path=aside, tracking_uri=uri))
        yield folder


def description_sha256(version: Version) -> str:
    """The digest of what MLflow reads to load the version. Errors: MobileVDError when it is gone or does not answer."""
    import mlflow

    with tempfile.TemporaryDirectory() as aside, tracking.told("MLflow's description cannot be fetched", kept=KEPT):
        source, uri = f"{version.source}/{pyfunc.MLMODEL}", tracking.uri()
        return file_sha256(Path(mlflow.artifacts.download_artifacts(source, dst_path=aside, tracking_uri=uri)))


@contextmanager
def gate_report(version: Version) -> Iterator[Path]:
    """The folder of the gate's report as it was stored with the run. Errors: as ``bundle``."""
    client = tracking.connect()
    with tempfile.TemporaryDirectory() as aside:
        with tracking.told("The run's gate report cannot be fetched", kept=KEPT):
            folder = Path(client.download_artifacts(version.run_id, REPORT_FOLDER, aside))
        yield folder


def aliases(model: str) -> dict[str, str]:
    """Alias → version, as MLflow has them. Errors: MobileVDError."""
    client = tracking.connect()
    with tracking.told("MLflow does not tell the aliases", kept=KEPT):
        found = client.get_registered_model(_checked(model)).aliases
    return {name: str(number) for name, number in found.items()}


def point(model: str, alias: str, number: str | None) -> None:
    """Set one alias, or take it away (None). Errors: MobileVDError."""
    client = tracking.connect()
    with tracking.told(f"MLflow did not set the alias {alias}", kept=f"{KEPT}; `mobilevd registry reconcile` sets it"):
        if number is None:
            client.delete_registered_model_alias(_checked(model), alias)
        else:
            client.set_registered_model_alias(_checked(model), alias, number)


def is_here(version: Version) -> bool:
    """Whether the bundle lies on this machine's disk."""
    return _local(version.source) is not None


def knows_ledger() -> bool:
    """Whether this machine knows where switches are written: see ``ledger_address``."""
    return bool(os.environ.get(LEDGER)) or tracking.artifact_folder() is not None


def ledger_address(model: str) -> str:
    """Where switches of ``model`` are written: under ``$MOBILEVD_LEDGER``, or beside the artifacts of a SQLite file.

    Errors: MobileVDError for a server, whose artifacts' place this machine does not know, without the variable.
    """
    return f"{_shared(model)}/{_checked(model)}"


def turns_address(model: str) -> str:
    """Where the runs that retrain ``model`` say whose turn it is: beside its ledger. Errors: as ``ledger_address``."""
    return f"{_shared(model)}/.turns/{_checked(model)}"


def _shared(model: str) -> str:
    home = os.environ.get(LEDGER)
    if not home and (beside := tracking.artifact_folder()) is not None:
        home = f"{_local(beside)}/ledger"
    if not home:
        raise MobileVDError(
            "Where the ledger of promotions lies is not said",
            got=f"{LEDGER} is not set, and MLflow is the server {sanitised(tracking.uri())}",
            allowed="a folder that everyone who promotes shares, or s3://bucket/prefix",
            where=LEDGER,
        )
    return home.rstrip("/")


def _whole(search: Callable[..., Any], asked: str | None = None) -> Iterator[Any]:
    """Everything that a search of MLflow's finds, page by page."""
    token = None
    while True:
        page = search(asked, AT_ONCE, page_token=token)
        yield from page
        if not (token := page.token):
            return


def _quoted(name: str) -> str:
    """A name as MLflow's filters read it; those of others may have signs that ours never have."""
    return f'"{name}"' if "'" in name else f"'{name}'"


def _version(found) -> Version:
    return Version(found.name, str(found.version), found.run_id or "", found.source, dict(found.tags))


def _local(address: str) -> Path | None:
    parts = urlsplit(address)
    if parts.scheme not in ("", "file"):
        return None
    return Path(unquote(parts.path) if parts.scheme else address)


def _checked(model: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", model):
        raise MobileVDError(
            "No model has such a name", got=model, allowed="letters, digits, dots, dashes", where="--model"
        )
    return model
