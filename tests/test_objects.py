"""One name is created once, whole, by one writer: in a folder, and in a bucket of a real S3 server."""

import os
import time
from pathlib import Path

import pytest
import seaweed

from mobilevd import objects
from mobilevd.errors import MobileVDError


@pytest.fixture(params=["folder", "s3"])
def address(request, tmp_path, monkeypatch) -> str:
    if request.param == "folder":
        return str(tmp_path / "objects")
    seaweed.use(monkeypatch)
    return f"s3://bucket/{request.node.name}/deep"


def test_what_was_created_is_read_and_listed_and_nothing_else(address):
    store = objects.at(address)
    assert (store.names(), store.read("a")) == ([], None)
    assert store.create("b", b"two")
    assert store.create("a", b"one")
    assert (store.names(), store.read("a"), store.read("b")) == (["a", "b"], b"one", b"two")


def test_a_taken_name_stays_as_it_was(address):
    store = objects.at(address)
    assert store.create("a", b"first")
    assert not store.create("a", b"second")
    assert store.read("a") == b"first"
    assert store.names() == ["a"]


def test_a_half_written_file_is_neither_listed_nor_in_the_way(tmp_path, monkeypatch):
    store = objects.at(str(tmp_path))

    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[:1])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(objects, "_write_synced", full)
        with pytest.raises(MobileVDError, match="No space left"):
            store.create("a", b"whole")
    assert (store.names(), os.listdir(tmp_path)) == ([], [])
    assert store.create("a", b"whole")


@pytest.mark.parametrize("wrong", ["http://host/x", "s3:///x", "gs://bucket/x"])
def test_an_address_of_another_kind_is_refused(wrong):
    with pytest.raises(MobileVDError, match="cannot lie there"):
        objects.at(wrong)


def test_a_missing_bucket_is_named(monkeypatch):
    seaweed.use(monkeypatch)
    with pytest.raises(MobileVDError, match="no-such-bucket"):
        objects.at("s3://no-such-bucket/x").names()


def test_a_wrong_secret_is_refused_and_not_shown(monkeypatch):
    seaweed.use(monkeypatch)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    with pytest.raises(MobileVDError) as caught:
        objects.at("s3://bucket/x").create("a", b"")
    assert "hunter2" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MobileVDError, match="file"):
        objects.at(str(tmp_path / "file" / "objects")).create("a", b"")


def test_an_empty_object_does_not_hold_up_the_next(monkeypatch):
    seaweed.use(monkeypatch)
    client, began = objects.client(tries=2, connect_s=5, read_s=5), time.monotonic()
    for key, data in (("empty", b""), ("next", b"x")):
        client.put_object(Bucket="bucket", Key=key, Body=data)
    assert time.monotonic() - began < 5, "the second upload was not answered in time, and sent again"
