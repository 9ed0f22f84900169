"""A real S3 server on this machine (SeaweedFS), started once for all tests that ask for it."""

import atexit
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

KEY, SECRET = "tests", "a-secret-of-the-tests"
ACTIONS = ["Admin", "Read", "Write", "List", "Tagging"]
WEED = Path(sys.executable).parent / "weed"
SHELL: list[str] = []  # what leads its shell to the server
BEYOND = 10_000  # every port's gRPC companion lies so far above it


@cache
def environment() -> dict[str, str]:
    """What brings boto3 to the server; it holds the bucket ``bucket``."""
    folder = Path(tempfile.mkdtemp(prefix="seaweed-"))
    identity = {"name": KEY, "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ACTIONS}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    master, volume, filer, s3 = free_ports(4)
    words = ["server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-master.port={master}"]
    words += [f"-volume.port={volume}", "-filer", f"-filer.port={filer}", "-s3", f"-s3.port={s3}"]
    words += [f"-s3.config={folder / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    words += ["-master.volumeSizeLimitMB=64", "-volume.max=50", "-volume.preStopSeconds=1"]
    found = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}", "AWS_DEFAULT_REGION": "us-east-1"}
    found |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    with (folder / "log.txt").open("wb") as log:
        server = subprocess.Popen([WEED, *words], stdout=log, stderr=log)
    atexit.register(_stop, server, folder)
    SHELL[:] = [f"-master=127.0.0.1:{master}", f"-filer=127.0.0.1:{filer}"]
    _wait(found["AWS_ENDPOINT_URL"], folder / "log.txt")
    return found


def use(monkeypatch) -> None:
    """Bring boto3 to the server for one test."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)


@contextmanager
def full(bucket: str) -> Iterator[None]:
    """A bucket of this test alone is over its quota: the server takes nothing more into it, and still gives."""
    import boto3

    client = boto3.client("s3")
    client.put_object(Bucket=bucket, Key="ballast", Body=os.urandom(2_000_000))  # what can be packed takes no room
    _ordered(f"s3.bucket.quota -name={bucket} -op=set -sizeMB=1")
    try:
        _until(lambda: not _takes(client, bucket))
        yield
    finally:
        _ordered(f"s3.bucket.quota -name={bucket} -op=remove")
        _until(lambda: _takes(client, bucket))


def _takes(client, bucket: str) -> bool:
    from botocore.exceptions import ClientError

    _ordered("s3.bucket.quota.enforce -apply")
    try:
        client.put_object(Bucket=bucket, Key="probe", Body=b"x")
    except ClientError:
        return False
    return True


def _ordered(command: str) -> None:
    lines = "\n".join(["lock", command, "unlock", "exit", ""])
    subprocess.run([WEED, "shell", *SHELL], input=lines, text=True, capture_output=True, check=True, timeout=60)


def _until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not holds():
        if time.monotonic() > until:
            raise TimeoutError("the quota of the bucket does not follow")
        time.sleep(0.5)


def _stop(server: subprocess.Popen, folder: Path) -> None:
    server.kill()
    server.wait()
    shutil.rmtree(folder, ignore_errors=True)


def _wait(endpoint: str, log: Path) -> None:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
    )
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with suppress(BotoCoreError, ClientError):
            client.create_bucket(Bucket="bucket")
            client.put_object(Bucket="bucket", Key="ready", Body=b"")
            return
        time.sleep(0.2)
    raise TimeoutError(log.read_text(errors="replace")[-2000:])


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, nor on their gRPC companions."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        if port not in found and all(_is_free(number) for number in (port, port + BEYOND)):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
