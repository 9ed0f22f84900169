"""Sealed folders to S3 and back: in parts with their sha256, going on after a cut; the manifest comes last.

**Keeps** what was pulled is there whole, with every digest of its manifest, or not at all; a part that lies there is
not sent again (``tests/test_transfer.py``). Keys, region and endpoint come from the environment, as boto3 reads it.
"""

import base64
import hashlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mobilevd import artifacts, objects
from mobilevd.artifacts import MANIFEST
from mobilevd.errors import IntegrityError, MobileVDError

PART = 16 * 1024 * 1024  # bytes; S3 takes no smaller ones than 5 MiB but the last
BLOCK = 1024 * 1024
TRIES, PATIENCE_S = 6, 0.2  # between tries 0.2, 0.4 … 6.4 s


def push(folder: Path, address: str, part: int = PART) -> int:
    """Send a sealed folder to ``s3://bucket/prefix``; returns how many bytes went over the wire.

    Errors: IntegrityError when the folder is not as it was sealed; MobileVDError naming what S3 refuses.
    """
    folder, bucket = Path(folder), _bucket(address)
    artifacts.verify(folder)
    bucket.check()
    sent = sum(_send(bucket, folder / name, name, digest, part) for name, digest in _listed(folder / MANIFEST))
    with bucket.told():
        bucket.client.put_object(
            Body=(folder / MANIFEST).read_bytes(), ChecksumAlgorithm="SHA256", **bucket.at(MANIFEST)
        )
    return sent


def pull(address: str, folder: Path, expected: str | None = None) -> Path:
    """Bring a pushed folder to ``folder``, which must not be there; a pull that was cut off goes on where it was.

    Args:
        expected: the digest of its manifest, if it was noted.
    Errors: IntegrityError for another manifest or a damaged file, by name; MobileVDError naming what S3 refuses.
    """
    folder, bucket = Path(folder), _bucket(address)
    if folder.exists():
        raise MobileVDError("The folder is there already", got=str(folder), allowed="a folder to be made")
    manifest = bucket.read(MANIFEST)
    if manifest is None:
        raise MobileVDError(
            "Nothing whole lies there", got=address, allowed="a prefix that a sealed folder was sent to"
        )
    if expected is not None and (got := hashlib.sha256(manifest).hexdigest()) != expected:
        raise IntegrityError("The manifest there is another", got=got, allowed=expected, where=address)
    aside = folder.with_name(f".{folder.name}.part")
    aside.mkdir(parents=True, exist_ok=True)
    (aside / MANIFEST).write_bytes(manifest)
    for name, digest in _listed(aside / MANIFEST):
        _bring(bucket, name, digest, aside)
    artifacts.verify(aside, expected)
    aside.rename(folder)
    return folder


def read_range(address: str, name: str, start: int, length: int) -> bytes:
    """``length`` bytes of one object from ``start`` on. Errors: MobileVDError, also for an object that is not there."""
    bucket = _bucket(address)
    with bucket.told():
        wanted = f"bytes={start}-{start + length - 1}"
        return bucket.client.get_object(Range=wanted, **bucket.at(name))["Body"].read()


def _bucket(address: str) -> objects.Bucket:
    found = objects.at(address)
    if not isinstance(found, objects.Bucket):
        raise MobileVDError("This is no place on S3", got=address, allowed="s3://bucket/prefix")
    return found


def _listed(manifest: Path) -> list[tuple[str, str]]:
    """Errors: IntegrityError for a name that leaves the folder, before anything is written."""
    return sorted(artifacts.listed(manifest).items())


def _send(bucket: objects.Bucket, path: Path, name: str, digest: str, part: int) -> int:
    size = path.stat().st_size
    if _lies_there(bucket, name, size, digest):
        return 0
    about = {"Metadata": {"sha256": digest}, "ChecksumAlgorithm": "SHA256"}
    if size <= part:
        with bucket.told():
            bucket.client.put_object(Body=path.read_bytes(), **about, **bucket.at(name))
        return size
    with bucket.told():
        upload, there = _begun(bucket, path, name, part)
        if upload is None:
            upload = bucket.client.create_multipart_upload(**about, **bucket.at(name))["UploadId"]
        sent, parts = 0, []
        for number, data in _parts(path, part):
            if number not in there:
                there[number] = _send_part(bucket, name, upload, number, data)
                sent += len(data)
            parts.append({"PartNumber": number} | there[number])
        bucket.client.complete_multipart_upload(UploadId=upload, MultipartUpload={"Parts": parts}, **bucket.at(name))
    return sent


def _send_part(bucket: objects.Bucket, name: str, upload: str, number: int, data: bytes) -> dict[str, str]:
    checksum = _checksum(data)
    answer = bucket.client.upload_part(
        UploadId=upload, PartNumber=number, Body=data, ChecksumSHA256=checksum, **bucket.at(name)
    )
    return {"ETag": answer["ETag"], "ChecksumSHA256": checksum}


def _begun(bucket: objects.Bucket, path: Path, name: str, part: int) -> tuple[str | None, dict[int, dict[str, str]]]:
    """An upload of these very bytes that was cut off, and the parts that lie there; one of other bytes is given up."""
    key = bucket.at(name)["Key"]
    found = bucket.client.list_multipart_uploads(Bucket=bucket.bucket, Prefix=key).get("Uploads", [])
    for upload in (one["UploadId"] for one in found if one["Key"] == key):
        pages = bucket.client.get_paginator("list_parts").paginate(UploadId=upload, **bucket.at(name))
        told = {one["PartNumber"]: one for page in pages for one in page.get("Parts", [])}
        mine = {number: data for number, data in _parts(path, part) if number in told}
        if mine.keys() == told.keys() and all(_is(data, told[number]) for number, data in mine.items()):
            return upload, {n: {"ETag": told[n]["ETag"], "ChecksumSHA256": _checksum(d)} for n, d in mine.items()}
        bucket.client.abort_multipart_upload(UploadId=upload, **bucket.at(name))
    return None, {}


def _lies_there(bucket: objects.Bucket, name: str, size: int, digest: str) -> bool:
    head = bucket.head(name)
    return head is not None and head["ContentLength"] == size and head["Metadata"].get("sha256") == digest


def _bring(bucket: objects.Bucket, name: str, digest: str, folder: Path) -> None:
    whole, partial = folder / name, folder / f"{name}.part"
    if whole.is_file() and artifacts.file_sha256(whole) == digest:
        return
    whole.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(TRIES):
        try:
            _append(bucket, name, partial)
            break
        except objects.failures() as error:
            if attempt == TRIES - 1 or not objects.may_pass(error):
                with bucket.told():
                    raise
            time.sleep(PATIENCE_S * 2**attempt)
    if (got := artifacts.file_sha256(partial)) != digest:
        partial.unlink()
        raise IntegrityError("A file was damaged on its way or in the store", got=f"{name} {got}", allowed=digest)
    partial.replace(whole)


def _append(bucket: objects.Bucket, name: str, partial: Path) -> None:
    """Go on after the bytes that are here already."""
    have = partial.stat().st_size if partial.is_file() else 0
    size = bucket.client.head_object(**bucket.at(name))["ContentLength"]
    with partial.open("ab" if have <= size else "wb") as stream:
        if have < size or size == 0:
            body = bucket.client.get_object(**({"Range": f"bytes={have}-"} if have else {}), **bucket.at(name))["Body"]
            shutil.copyfileobj(body, stream, BLOCK)


def _parts(path: Path, part: int) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as stream:
        yield from enumerate(iter(lambda: stream.read(part), b""), 1)


def _checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def _is(data: bytes, told: dict[str, Any]) -> bool:
    """By the part's sha256 where the store tells it, by its ETag (md5) elsewhere."""
    if told.get("ChecksumSHA256"):
        return told["ChecksumSHA256"] == _checksum(data)
    return told["ETag"].strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()
