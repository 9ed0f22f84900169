"""An empty MLflow store for each test: the database is set up once for all of them and then copied."""

import shutil
import tempfile
from functools import cache
from pathlib import Path

import pytest


def use(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Point MLflow at a store of its own under ``folder``; returns a client that looks into it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_empty(), folder / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    return client()


def client():
    from mlflow import MlflowClient

    from mobilevd.registry import tracking

    return MlflowClient(tracking_uri=tracking.uri())


@cache
def _empty() -> Path:
    from mlflow import MlflowClient

    path = Path(tempfile.mkdtemp(prefix="tracking-")) / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path
