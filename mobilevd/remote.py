"""Sealed folders and single files on S3: pushed with digests, fetched once, and handed out only whole and verified.

**Keeps** a manifest is written last and read first, so a half-pushed folder is none; a fetch that was cut goes on with
the files it lacks (``tests/test_remote.py``). Region, endpoint and keys come from the environment, as boto3 reads it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mobilevd import objects, transfer
from mobilevd.errors import IntegrityError, MobileVDError
from mobilevd.places import cache_dir

MANIFEST = "manifest.json"
TRIES, CONNECT_S, READ_S = 8, 10, 60
AT_ONCE = 8  # files; a client of boto3 holds ten connections


def is_remote(address: str) -> bool:
    """Whether an address lies on S3."""
    return str(address).startswith("s3://")


def push(folder: Path, address: str) -> None:
    """Copy every file of ``folder`` under ``address``, the manifest last; what is there already is not sent again.

    Errors: MobileVDError when the store does not take them; FileNotFoundError when a file goes away meanwhile.
    """
    folder, (bucket, prefix) = Path(folder), _parts(address)
    files = sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: (p.name == MANIFEST, p))
    with _store(address) as s3:
        s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)  # some servers make a bucket at its first write
        for path in files:
            _send(s3, path, bucket, f"{prefix}/{path.relative_to(folder).as_posix()}")


def push_file(path: Path, address: str) -> None:
    """Copy one file to ``address``. Errors: MobileVDError when the store does not take it."""
    with _store(address) as s3:
        _send(s3, Path(path), *_parts(address))


def pull(address: str, folder: Path, sha256: str | None = None) -> Path:
    """Bring a sealed folder; it is there whole and verified against its manifest, or not at all.

    ``sha256``: of the manifest, where it is known. Errors: IntegrityError when a file is missing or not the sealed one;
    MobileVDError when the store does not answer.
    """
    manifest = read(f"{address}/{MANIFEST}")
    if sha256 is not None and (got := hashlib.sha256(manifest).hexdigest()) != sha256:
        raise IntegrityError("The manifest changed", got=got, allowed=sha256, where=address)
    aside = folder.with_name(f"{folder.name}.part")
    aside.mkdir(parents=True, exist_ok=True)
    with _store(address) as s3:
        for name, digest in json.loads(manifest)["files"].items():
            _bring(s3, f"{address}/{name}", _inside(aside, name, address), digest)
    (aside / MANIFEST).write_bytes(manifest)
    if folder.is_dir():  # another process was faster
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.rename(folder)
    return folder


def fetch(address: str, sha256: str) -> Path:
    """A sealed folder in the cache, brought once. Errors: as ``pull``."""
    final = cache_dir() / "artifacts" / sha256[:2] / sha256
    return final if final.is_dir() else pull(address, final, sha256)


def fetch_part(address: str, sha256: str, files: dict[str, str]) -> Path:
    """Of a sealed folder these files (name → digest) alone, in the cache; where they lie. Errors: as ``pull``."""
    home = cache_dir() / "parts" / sha256[:2] / sha256
    fetch_files([(f"{address}/{name}", _inside(home, name, address), d) for name, d in files.items()], "sha256")
    return home


def fetch_files(wanted: Sequence[tuple[str, Path, str]], kind: str = "md5") -> None:
    """Files (address, path, digest), ``AT_ONCE`` at a time and by one client; one that is there already is not brought.

    Errors: as ``pull``, of the first file in this order that cannot be brought; what was not begun by then is left.
    """

    def bring(address: str, path: Path, digest: str) -> None:
        with _told(address):
            _bring(s3, address, path, digest, kind)

    if not wanted:
        return
    with _store(wanted[0][0]) as s3, ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(bring, *zip(*wanted, strict=True)):
            pass


def bring_beside(address: str, relative: str) -> Path | None:
    """The object ``relative`` to the folder above ``address``, in the cache; None where there is none."""
    wanted = f"{address.rsplit('/', 1)[0]}/{relative}"
    path = cache_dir() / "beside" / wanted.removeprefix("s3://")
    if not path.is_file():
        try:
            data = read(wanted)
        except IntegrityError:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.{os.getpid()}.part")  # another process may bring it at the same time
        aside.write_bytes(data)
        aside.replace(path)
    return path


def read(address: str) -> bytes:
    """One small object. Errors: IntegrityError when there is none; MobileVDError when the store does not answer."""
    from botocore.exceptions import ClientError

    bucket, key = _parts(address)
    with _store(address) as s3:
        try:
            return s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        except ClientError as error:
            raise _gone(error, address) from None


def write(address: str, data: bytes) -> None:
    """One small object, in place of any before it. Errors: MobileVDError when the store does not take it."""
    bucket, key = _parts(address)
    with _store(address) as s3:
        s3.put_object(Bucket=bucket, Key=key, Body=data, ChecksumAlgorithm="SHA256")


def names(address: str) -> dict[str, int]:
    """Every object under ``address``, by its name below it, and its bytes. Errors: as ``write``."""
    return {name: size for name, size, _ in listed(address)}


def listed(address: str) -> list[tuple[str, int, float]]:
    """Every object under ``address``: its name below it, its bytes, when it was written, in s since 1970."""
    bucket, prefix = _parts(address)
    with _store(address) as s3:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        found = [item for page in pages for item in page.get("Contents", [])]
    return [(o["Key"].removeprefix(f"{prefix}/"), o["Size"], o["LastModified"].timestamp()) for o in found]


def remove(address: str) -> None:
    """Every object under ``address``, manifests first: nothing half-removed looks whole. Errors: as ``write``."""
    bucket, prefix = _parts(address)
    found = sorted(names(address), key=lambda name: (not name.endswith(MANIFEST), name))
    with _store(address) as s3:
        for name in found:
            s3.delete_object(Bucket=bucket, Key=f"{prefix}/{name}")


def _send(s3: Any, path: Path, bucket: str, key: str) -> bool:
    """Whether it had to be sent."""
    from botocore.exceptions import ClientError

    digest = _digest(path, "sha256")
    try:
        there = s3.head_object(Bucket=bucket, Key=key)["Metadata"].get("sha256")
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchKey"):
            raise
        there = None
    if there == digest:
        return False
    transfer.send(s3, path, bucket, key, digest)
    return True


def _bring(s3: Any, address: str, path: Path, digest: str, kind: str = "sha256") -> None:
    from botocore.exceptions import ClientError

    if path.is_file() and _digest(path, kind) == digest:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        transfer.bring(s3, *_parts(address), path, digest, kind)
    except ClientError as error:
        raise _gone(error, address) from None


def _inside(folder: Path, name: str, address: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise IntegrityError("A manifest entry leaves its folder", got=name, where=address)
    return path


def _gone(error: Exception, address: str) -> MobileVDError:
    code = getattr(error, "response", {}).get("Error", {}).get("Code", type(error).__name__)
    if code in ("404", "NoSuchKey"):
        return IntegrityError(
            "An artifact is gone", got=address, allowed="what the stage pushed", where="rerun the stage"
        )
    return _refused(error, address)


def _refused(error: Exception, address: str) -> MobileVDError:
    allowed = objects.remedy(error) or "a bucket that answers, and keys that may read and write it"
    return MobileVDError(
        "The store of artifacts refuses", got=f"{type(error).__name__}: {error}", allowed=allowed, where=address
    )


@contextmanager
def _store(address: str) -> Iterator[Any]:
    with _told(address):
        yield objects.client(TRIES, CONNECT_S, READ_S)


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Errors of S3 and its client inside become MobileVDError, naming ``address``."""
    try:
        yield
    except objects.failures() as error:
        raise _refused(error, address) from None


def _parts(address: str) -> tuple[str, str]:
    parts = urlsplit(address)
    if parts.scheme != "s3" or not parts.netloc:
        raise MobileVDError("Artifacts cannot lie there", got=address, allowed="s3://bucket/prefix")
    return parts.netloc, parts.path.strip("/")


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
