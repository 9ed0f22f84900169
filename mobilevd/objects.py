"""Small objects under one address, a folder or ``s3://bucket/prefix``: listed, read, and created only where none is.

**Keeps** of many writers of one name exactly one creates it, and no reader ever sees half of it
(``tests/test_objects.py``). The door to boto3; region, endpoint and keys come from the environment, as boto3 reads it.
"""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mobilevd.errors import MobileVDError

BUSY, TAKEN, GONE = "ConditionalRequestConflict", "PreconditionFailed", "NoSuchKey"
TRIES = 8
REMEDIES = {
    "NoSuchBucket": "a bucket that exists",
    "InvalidAccessKeyId": "a key that this store knows: AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret that belongs to the key: AWS_SECRET_ACCESS_KEY",
    "AccessDenied": "a key that may read and write here",
    "NoSuchKey": "an object that is there",
}


def at(address: str) -> "Folder | Bucket":
    """The objects under ``address``.

    Errors: MobileVDError for an address of another kind, and from every call when folder or bucket do not answer.
    """
    parts = urlsplit(address)
    if parts.scheme == "s3" and parts.netloc:
        return Bucket(parts.netloc, parts.path.strip("/"))
    if parts.scheme in ("", "file"):
        return Folder(Path(parts.path if parts.scheme else address))
    raise MobileVDError("Objects cannot lie there", got=address, allowed="a folder, or s3://bucket/prefix")


def client(tries: int, connect_s: int, read_s: int) -> Any:
    """S3's client, which reads region, endpoint and keys from the environment as it is now."""
    import boto3
    from botocore.config import Config

    retries = {"mode": "standard", "max_attempts": tries}
    return boto3.Session().client("s3", config=Config(retries=retries, connect_timeout=connect_s, read_timeout=read_s))


def failures() -> tuple[type[Exception], ...]:
    """The kinds of errors that S3 and its client raise; none where the client is not installed."""
    if find_spec("boto3") is None:
        return ()
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    return Boto3Error, BotoCoreError, ClientError


class Folder:
    """Files of one folder. A file appears by ``link``, which fails where one exists, after its bytes were synced."""

    def __init__(self, folder: Path):
        self.folder = Path(folder).resolve()

    def names(self) -> list[str]:
        """The names of all objects, sorted."""
        with self.told():
            files = self.folder.iterdir() if self.folder.exists() else ()
            return sorted(path.name for path in files if not path.name.startswith("."))

    def read(self, name: str) -> bytes | None:
        """The object whole; None where there is none."""
        with self.told():
            try:
                return (self.folder / name).read_bytes()
            except FileNotFoundError:
                return None

    def create(self, name: str, data: bytes) -> bool:
        """Write a new object; False, with nothing changed, when there is one of that name."""
        with self.told():
            self.folder.mkdir(parents=True, exist_ok=True)
            aside = self.folder / f".{name}.{os.getpid()}.{secrets.token_hex(4)}"  # a name that is never listed
            try:
                _write_synced(aside, data)
                created = _link(aside, self.folder / name)
            finally:
                aside.unlink(missing_ok=True)
            _sync(self.folder)
        return created

    def told(self) -> Any:
        """Errors of the disk inside become MobileVDError, naming the folder."""
        return _told(str(self.folder), OSError)


class Bucket:
    """Objects of one bucket under one prefix, created with ``If-None-Match: *``."""

    def __init__(self, bucket: str, prefix: str):
        self.bucket, self.prefix = bucket, f"{prefix}/" if prefix else ""
        with self.told():
            self.client = client(tries=5, connect_s=5, read_s=30)

    def names(self) -> list[str]:
        """The names of all objects, sorted."""
        with self.told():
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
            keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return sorted(key.removeprefix(self.prefix) for key in keys if not key.endswith("/"))

    def read(self, name: str) -> bytes | None:
        """The object whole; None where there is none."""
        from botocore.exceptions import ClientError

        with self.told():
            try:
                return self.client.get_object(**self.at(name))["Body"].read()
            except ClientError as error:
                if _code(error) == GONE:
                    return None
                raise

    def at(self, name: str) -> dict[str, str]:
        """Where the object lies, in boto3's words."""
        return {"Bucket": self.bucket, "Key": self.prefix + name}

    def create(self, name: str, data: bytes) -> bool:
        """Write a new object; False, with nothing changed, when there is one of that name."""
        with self.told():
            for attempt in range(TRIES):
                if (code := self._put(name, data)) != BUSY:
                    return code is None
                time.sleep(0.05 * 2**attempt)  # S3: another write of this name is under way; ask again
        raise MobileVDError("Another write does not end", got=name, allowed="a free name", where=f"s3://{self.bucket}")

    def _put(self, name: str, data: bytes) -> str | None:
        from botocore.exceptions import ClientError

        try:
            self.client.put_object(Body=data, IfNoneMatch="*", ChecksumAlgorithm="SHA256", **self.at(name))
        except ClientError as error:
            if _code(error) in (BUSY, TAKEN):
                return _code(error)
            raise
        return None

    def told(self) -> Any:
        """Errors of S3 inside become MobileVDError, naming the bucket and what was wrong."""
        return _told(f"s3://{self.bucket}/{self.prefix}", *failures())


@contextmanager
def _told(where: str, *kinds: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kinds as error:
        raise MobileVDError(
            "The store does not answer as it should",
            got=f"{type(error).__name__}: {error}",
            allowed=remedy(error) or "an address that can be read and written",
            where=where,
        ) from None


def remedy(error: Exception) -> str | None:
    """What would have been accepted, for refusals of S3 that say so."""
    return REMEDIES.get(_code(error))


def _code(error: Any) -> str:
    """S3's name of what went wrong, "" for other errors; some servers give the HTTP status instead."""
    code = (getattr(error, "response", None) or {}).get("Error", {}).get("Code", "")
    return {"412": TAKEN, "409": BUSY, "404": GONE}.get(code, code)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    return True


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
