"""MLflow itself: where it is, a client that is quiet, its errors as ours, and names and tags as it takes them.

**Keeps** what follows a user name in an address is never written (``tests/registry/test_runs.py``).
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mobilevd import objects
from mobilevd.errors import MobileVDError
from mobilevd.packages import project_root
from mobilevd.secrecy import sanitised

if TYPE_CHECKING:
    from mlflow import MlflowClient

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",  # 2 + 4 + 8 + 16 s between them; the usual seven take minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "3600",
}
LATER = "no version was created; `mobilevd register --resume` completes it"


def uri() -> str:
    """``MLFLOW_TRACKING_URI``, or the SQLite file ``mlflow.db`` in the project."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root() / 'mlflow.db'}"


def connect() -> "MlflowClient":
    """MLflow at ``uri()``, with its own chatter off. Errors: MobileVDError when it cannot be reached."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    with told("MLflow cannot be reached", kept="everything that was made"):
        return MlflowClient(tracking_uri=uri())


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
            where=f"MLFLOW_TRACKING_URI, now {sanitised(uri())}",
        ) from None


def artifact_folder() -> str | None:
    """Beside a SQLite file, as an absolute address; None where a server decides."""
    address = uri()
    if urlsplit(address).scheme in ("http", "https", "databricks"):
        return None
    file = address.removeprefix("sqlite:///")
    home = Path(file).resolve().parent if file != address else project_root()
    return (home / "mlruns").as_uri()


def clean(tags: dict[str, str]) -> dict[str, str]:
    """Names and values of tags as MLflow takes them, without credentials."""
    return {key(name): sanitised(str(value)) for name, value in tags.items()}


def key(name: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w./ -]", "_", name)


def ms(seconds: float) -> int:
    """A moment as MLflow writes it."""
    return round(seconds * 1000)
