"""A real PostgreSQL on this machine for one test module, or a skip that says why there is none."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import seaweed

PASSWORD = "planted-in-the-database-url"
USER = "mobilevd"


def binaries() -> Path | None:
    """Where ``initdb`` and ``postgres`` lie: on the path, or where Debian puts them."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)


@contextmanager
def server() -> Iterator[str]:
    """The address of an empty database ``mlflow``, in SQLAlchemy's form with its password in it."""
    home = binaries()
    if home is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql): its part was not tested")
    folder, [port] = Path(tempfile.mkdtemp(prefix="postgres-")), seaweed.free_ports(1)
    as_user = _other_user(folder)
    (folder / "password").write_text(PASSWORD)
    data = folder / "data"
    words = ["-D", data, "-U", USER, f"--pwfile={folder / 'password'}", "--auth=scram-sha-256", "--no-sync"]
    subprocess.run([home / "initdb", *words, "--encoding=UTF8"], check=True, capture_output=True, **as_user)
    flags = ["-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-c", "fsync=off"]
    with (folder / "log.txt").open("wb") as log:
        running = subprocess.Popen([home / "postgres", *flags], stdout=log, stderr=log, **as_user)
    address = f"postgresql+psycopg2://{USER}:{PASSWORD}@127.0.0.1:{port}"
    try:
        _create(address, folder / "log.txt")
        yield f"{address}/mlflow"
    finally:
        running.send_signal(signal.SIGINT)  # at once, whoever is still connected
        running.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _other_user(folder: Path) -> dict:
    """PostgreSQL refuses to run as root: there, the user that its package made, or nobody, gets the folder."""
    if os.getuid() != 0:
        return {}
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = names.get("postgres") or names["nobody"]
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    folder.chmod(0o755)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "cwd": folder}


def _create(address: str, log: Path) -> None:
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import OperationalError

    until = time.monotonic() + 60
    while True:
        try:
            with create_engine(f"{address}/postgres", isolation_level="AUTOCOMMIT").connect() as connection:
                connection.execute(text("CREATE DATABASE mlflow"))
                return
        except OperationalError:
            if time.monotonic() > until:
                raise TimeoutError(log.read_text(errors="replace")[-2000:]) from None
            time.sleep(0.2)
