"""One file to S3 and back: in parts with their sha256, going on after a cut; ``remote`` makes folders of them.

**Keeps** a part that lies there is not sent again, a byte that is here is not fetched again, and what is whole has its
digest (``tests/test_transfer.py``).
"""

import base64
import fcntl
import hashlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mobilevd import objects
from mobilevd.errors import IntegrityError

PART = 16 * 1024 * 1024  # bytes; S3 takes no smaller ones than 5 MiB but the last
BLOCK = 1024 * 1024
TRIES, PATIENCE_S = 6, 0.2  # between tries 0.2, 0.4 … 3.2 s


def send(s3: Any, path: Path, bucket: str, key: str, digest: str) -> int:
    """Send one file, whose sha256 is ``digest``; returns the bytes that went over the wire. Errors: boto3's."""
    about = {"Metadata": {"sha256": digest}, "ChecksumAlgorithm": "SHA256"}
    at = {"Bucket": bucket, "Key": key}
    if path.stat().st_size <= PART:
        s3.put_object(Body=path.read_bytes(), **about, **at)
        return path.stat().st_size
    upload, there = _begun(s3, path, at)
    upload = upload or s3.create_multipart_upload(**about, **at)["UploadId"]
    sent, parts = 0, []
    for number, data in _parts(path):
        if number not in there:
            there[number] = _send_part(s3, at, upload, number, data)
            sent += len(data)
        parts.append({"PartNumber": number} | there[number])
    s3.complete_multipart_upload(UploadId=upload, MultipartUpload={"Parts": parts}, **at)
    return sent


def bring(s3: Any, bucket: str, key: str, path: Path, digest: str, kind: str = "sha256") -> None:
    """Bring one file to ``path``, where it appears whole; one that was cut off goes on where it was.

    Errors: IntegrityError when it has another digest; boto3's, when asking again did not help.
    """
    partial = path.with_name(f"{path.name}.part")
    with partial.open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # another process that brings the same file comes first
        if path.is_file() and _digest(path, kind) == digest:
            return
        _fetch(s3, {"Bucket": bucket, "Key": key}, stream)
        stream.flush()
        if (got := _digest(partial, kind)) != digest:
            partial.unlink()
            where = f"s3://{bucket}/{key}"
            raise IntegrityError("A file changed since it was sealed", got=got, allowed=digest, where=where)
        partial.replace(path)


def read_range(s3: Any, bucket: str, key: str, start: int, length: int) -> bytes:
    """``length`` bytes of one object from ``start`` on. Errors: boto3's."""
    return s3.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{start + length - 1}")["Body"].read()


def _send_part(s3: Any, at: dict[str, str], upload: str, number: int, data: bytes) -> dict[str, str]:
    checksum = _checksum(data)
    answer = s3.upload_part(UploadId=upload, PartNumber=number, Body=data, ChecksumSHA256=checksum, **at)
    return {"ETag": answer["ETag"], "ChecksumSHA256": checksum}


def _begun(s3: Any, path: Path, at: dict[str, str]) -> tuple[str | None, dict[int, dict[str, str]]]:
    """An upload of these very bytes that was cut off, and the parts that lie there; one of other bytes is given up."""
    found = s3.list_multipart_uploads(Bucket=at["Bucket"], Prefix=at["Key"]).get("Uploads", [])
    for upload in (one["UploadId"] for one in found if one["Key"] == at["Key"]):
        pages = s3.get_paginator("list_parts").paginate(UploadId=upload, **at)
        told = {one["PartNumber"]: one for page in pages for one in page.get("Parts", [])}
        mine = {number: data for number, data in _parts(path) if number in told}
        if mine.keys() == told.keys() and all(_is(data, told[number]) for number, data in mine.items()):
            return upload, {n: {"ETag": told[n]["ETag"], "ChecksumSHA256": _checksum(d)} for n, d in mine.items()}
        s3.abort_multipart_upload(UploadId=upload, **at)
    return None, {}


def _fetch(s3: Any, at: dict[str, str], stream: Any) -> None:
    """Everything after the bytes that ``stream`` has; asked for again, a little later each time, when it is cut.

    Requests that are not answered are repeated by boto3 itself.
    """
    size = s3.head_object(**at)["ContentLength"]
    if stream.tell() > size:
        stream.truncate(0)
    for attempt in range(TRIES):
        have = stream.seek(0, 2)
        if have == size:
            return
        body = s3.get_object(Range=f"bytes={have}-", **at)["Body"]
        try:
            shutil.copyfileobj(body, stream, BLOCK)
        except objects.failures():
            if attempt == TRIES - 1:
                raise
            time.sleep(PATIENCE_S * 2**attempt)


def _parts(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as stream:
        yield from enumerate(iter(lambda: stream.read(PART), b""), 1)


def _checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def _is(data: bytes, told: dict[str, Any]) -> bool:
    """By the part's sha256 where the store tells it, by its ETag (md5) elsewhere."""
    if told.get("ChecksumSHA256"):
        return told["ChecksumSHA256"] == _checksum(data)
    return told["ETag"].strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
