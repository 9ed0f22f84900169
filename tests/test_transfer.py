"""Sealed folders to a real S3 server and back: whole or not at all, going on after a cut, and nothing sent twice."""

import hashlib
from pathlib import Path

import pytest
import seaweed
from flaky import Wire
from typer.testing import CliRunner

from mobilevd import artifacts, cli, remote, transfer
from mobilevd.artifacts import MANIFEST
from mobilevd.errors import MobileVDError
from mobilevd.stages import models

MIB = 1 << 20


@pytest.fixture(autouse=True)
def parts(monkeypatch):
    monkeypatch.setattr(transfer, "PART", 5 * MIB)
    monkeypatch.setattr(transfer, "PATIENCE_S", 0.01)
    monkeypatch.setattr(remote, "TRIES", 2)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A file of three parts, a small one and an empty one, sealed."""
    home = tmp_path / "sealed"
    (home / "unet").mkdir(parents=True)
    block = hashlib.sha256(b"seed").digest() * (MIB // 32)
    (home / "unet" / "big.safetensors").write_bytes(b"".join(block[k:] + block[:k] for k in range(12)))
    (home / "card.md").write_text("text")
    (home / "empty.json").write_bytes(b"")
    artifacts.seal(home)
    return home


@pytest.fixture
def address(request, monkeypatch) -> str:
    seaweed.use(monkeypatch)
    return f"s3://bucket/transfer/{request.node.name}"


@pytest.fixture
def wire(address, monkeypatch):
    """The same store behind a wire that the test may cut."""
    cable = Wire(seaweed.environment()["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", cable.address)
    yield cable
    cable.close()


def manifest(address: str) -> str:
    return hashlib.sha256(remote.read(f"{address}/{MANIFEST}")).hexdigest()


def test_folder_comes_back_byte_by_byte_and_is_not_sent_twice(folder, address, tmp_path, monkeypatch):
    sent, send = [], transfer.send
    monkeypatch.setattr(transfer, "send", lambda *words: sent.append(send(*words)))
    remote.push(folder, address)
    assert sum(sent) == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    remote.push(folder, address)
    assert len(sent) == 4
    digest = artifacts.file_sha256(folder / MANIFEST)
    artifacts.verify(remote.pull(address, tmp_path / "back", digest), digest)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back", "sealed"]


def test_upload_that_was_cut_off_sends_only_the_parts_that_are_missing(folder, address, monkeypatch):
    send, sent = transfer._send_part, []

    def dies(s3, at, upload, number, data):
        if number == 3:
            raise KeyboardInterrupt("pulled the plug")
        return send(s3, at, upload, number, data)

    with monkeypatch.context() as patched:
        patched.setattr(transfer, "_send_part", dies)
        with pytest.raises(KeyboardInterrupt):
            remote.push(folder, address)
    assert MANIFEST not in remote.names(address)
    monkeypatch.setattr(transfer, "_send_part", lambda *words: sent.append(words[3]) or send(*words))
    remote.push(folder, address)
    assert sent == [3]
    assert manifest(address) == artifacts.file_sha256(folder / MANIFEST)


def test_upload_of_other_bytes_does_not_go_on_from_parts_of_the_old_ones(folder, address, monkeypatch, tmp_path):
    send = transfer._send_part

    def dies(s3, at, upload, number, data):
        send(s3, at, upload, number, data)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(transfer, "_send_part", dies)
        with pytest.raises(KeyboardInterrupt):
            remote.push(folder, address)
    big = folder / "unet" / "big.safetensors"
    big.write_bytes(bytes(reversed(big.read_bytes())))
    artifacts.seal(folder)
    remote.push(folder, address)
    artifacts.verify(remote.pull(address, tmp_path / "back"), artifacts.file_sha256(folder / MANIFEST))


def test_download_goes_on_where_the_wire_was_cut(folder, address, wire, tmp_path):
    remote.push(folder, address)
    wire.cuts = [4 * MIB, 3 * MIB, 100]
    back = remote.pull(address, tmp_path / "back")
    assert wire.cuts == []
    artifacts.verify(back, artifacts.file_sha256(folder / MANIFEST))


def test_download_that_never_ends_shows_nothing_and_the_next_one_goes_on(folder, address, wire, tmp_path):
    remote.push(folder, address)
    wire.cuts = [6 * MIB] + [0] * 40
    with pytest.raises(MobileVDError, match="store of artifacts refuses"):
        remote.pull(address, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    kept = tmp_path / "back.part" / "unet" / "big.safetensors.part"
    assert 5 * MIB < kept.stat().st_size < 12 * MIB
    wire.cuts = []
    artifacts.verify(remote.pull(address, tmp_path / "back"))


def test_range_of_an_object_is_read_alone(folder, address):
    import boto3

    remote.push(folder, address)
    whole = (folder / "unet" / "big.safetensors").read_bytes()
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    got = transfer.read_range(boto3.client("s3"), bucket, f"{prefix}/unet/big.safetensors", 7 * MIB + 3, 11)
    assert got == whole[7 * MIB + 3 : 7 * MIB + 14]


def test_wrong_key_wrong_secret_and_missing_bucket_are_named(folder, address, monkeypatch):
    with pytest.raises(MobileVDError, match=r"NoSuchBucket(.|\n)*a bucket that exists(.|\n)*no-such-bucket"):
        remote.push(folder, "s3://no-such-bucket/x")
    for name, said in (("AWS_SECRET_ACCESS_KEY", "secret that belongs"), ("AWS_ACCESS_KEY_ID", "key that this store")):
        with monkeypatch.context() as patched:
            patched.setenv(name, "hunter2-planted")
            with pytest.raises(MobileVDError, match=f"{said}(.|\n)*{name}") as caught:
                remote.names(address)
        assert name == "AWS_ACCESS_KEY_ID" or "hunter2-planted" not in str(caught.value)


def test_model_on_s3_is_used_by_its_address(folder, address, tmp_path, monkeypatch):
    monkeypatch.setenv("MOBILEVD_CACHE", str(tmp_path / "cache"))
    CliRunner().invoke(cli.app, ["push", str(folder), address], catch_exceptions=False)
    kept = models.folder(address)
    artifacts.verify(kept, artifacts.file_sha256(folder / MANIFEST))
    assert models.folder(address) == kept
    told = CliRunner().invoke(cli.app, ["pull", address, str(tmp_path / "mine")], catch_exceptions=False)
    assert "every file has its digest" in told.stdout
    with pytest.raises(MobileVDError, match="An artifact is gone"):
        models.folder("s3://bucket/nothing/here")
