"""A real MLflow server with passwords, on PostgreSQL and S3, for the tests of one module."""

import base64
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import postgres
import seaweed

USER, PASSWORD = "admin", "planted-for-the-tracking-server"


@dataclass(frozen=True)
class Tracker:
    """Where the server is, its process (which may be stopped and continued), its database and its log."""

    address: str
    process: subprocess.Popen
    database: str
    log: Path


@contextmanager
def server(bucket: str) -> Iterator[Tracker]:
    """A server that stores artifacts in ``bucket`` and answers nobody without a password."""
    with postgres.server() as database:
        folder, [port] = Path(tempfile.mkdtemp(prefix="tracker-")), seaweed.free_ports(1)
        lines = ["[mlflow]", "default_permission = READ", f"database_uri = sqlite:///{folder / 'users.db'}"]
        lines += [f"admin_username = {USER}", f"admin_password = {PASSWORD}"]
        lines += ["authorization_function = mlflow.server.auth:authenticate_request_basic_auth"]
        (folder / "auth.ini").write_text("\n".join(lines))
        own = {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "tests"}
        own |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        own |= {"MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true", "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http"}
        own |= {"MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode()}
        own |= {
            "MLFLOW_BACKEND_STORE_URI": database,
            "MLFLOW_S3_ENDPOINT_URL": seaweed.environment()["AWS_ENDPOINT_URL"],
        }
        words = ["server", "--app-name", "basic-auth", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        words += ["--artifacts-destination", f"s3://{bucket}/mlflow"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | seaweed.environment() | own
        with (folder / "log.txt").open("wb") as log:
            command = [Path(sys.executable).parent / "mlflow", *words]
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True
            )
        try:
            _wait(f"http://127.0.0.1:{port}", folder / "log.txt")
            _check_passwords_sooner(folder / "users.db")
            yield Tracker(f"http://127.0.0.1:{port}", process, database, folder / "log.txt")
        finally:
            _end(process)
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def plain(destination: str, folder: Path) -> Iterator[str]:
    """The address of a server without passwords, with a file as its database, that stores artifacts there."""
    [port] = seaweed.free_ports(1)
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", destination]
    own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    own |= {"MLFLOW_S3_ENDPOINT_URL": seaweed.environment()["AWS_ENDPOINT_URL"]}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | seaweed.environment() | own
    with (folder / "mlflow.log").open("wb") as log:
        command = [Path(sys.executable).parent / "mlflow", *words]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True)
    try:
        _wait(f"http://127.0.0.1:{port}", folder / "mlflow.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        _end(process)


def _check_passwords_sooner(users: Path) -> None:
    """With one round of its hash: the server's own takes a tenth of a second, at every request."""
    from werkzeug.security import generate_password_hash

    with sqlite3.connect(users) as database:
        database.execute("UPDATE users SET password_hash = ?", [generate_password_hash(PASSWORD, "pbkdf2:sha256:1")])
    database.close()


def _end(process: subprocess.Popen) -> None:
    """The server and the workers it started, which are a session of their own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()


def _wait(address: str, log: Path) -> None:
    until = time.monotonic() + 300
    while time.monotonic() < until:
        with suppress(URLError, OSError), urlopen(f"{address}/health", timeout=5):
            return
        time.sleep(0.5)
    raise TimeoutError(log.read_text(errors="replace")[-3000:])
