"""A local stand-in for AWS's APIs (moto's server), started once for all tests that ask for it. Not used for S3."""

import atexit
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen


@cache
def address() -> str:
    """Where the server listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = str(Path(__file__).with_name("aws_server.py"))
    server = subprocess.Popen(
        [sys.executable, program, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    atexit.register(_stop, server)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with suppress(URLError, ConnectionError), urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=1):
            return f"http://127.0.0.1:{port}"
        time.sleep(0.1)
    raise TimeoutError("moto_server does not answer")


def client(service: str, region: str = "us-east-1"):
    """A boto3 client of the stand-in."""
    import boto3

    words = {"region_name": region, "aws_access_key_id": "tests", "aws_secret_access_key": "tests"}
    return boto3.client(service, endpoint_url=address(), **words)


def _stop(server: subprocess.Popen) -> None:
    server.kill()
    server.wait()
