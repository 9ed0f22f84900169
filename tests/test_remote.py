"""What lies on S3 comes whole or not at all, is brought once, and goes on where it was cut."""

import hashlib
import json
from pathlib import Path

import pytest
import seaweed

from mobilevd import remote
from mobilevd.artifacts import Artifact, seal
from mobilevd.errors import IntegrityError, MobileVDError


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An address of the test's own on a real server; the cache is the test's own too."""
    seaweed.use(monkeypatch)
    monkeypatch.setenv("MOBILEVD_CACHE", str(tmp_path / "cache"))
    return f"s3://bucket/remote/{tmp_path.name}"


@pytest.fixture
def sealed(tmp_path) -> Artifact:
    folder = tmp_path / "made"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "weights").write_bytes(bytes(range(256)) * 40_000)  # more than one part of an upload
    (folder / "note.txt").write_text("small")
    return seal(folder)


def test_what_was_pushed_is_fetched_whole_and_only_once(place, sealed):
    remote.push(sealed.path, f"{place}/made")
    there = Artifact(uri=f"{place}/made", sha256=sealed.sha256)
    assert (there.path / "deep" / "weights").read_bytes() == (sealed.path / "deep" / "weights").read_bytes()
    remote.remove(f"{place}/made")
    assert there.path.is_dir(), "it is here already"
    assert remote.names(place) == {}


def test_part_of_a_folder_is_fetched_without_the_others(place, sealed):
    remote.push(sealed.path, f"{place}/made")
    remote.remove(f"{place}/made/deep")
    there = Artifact(uri=f"{place}/made", sha256=sealed.sha256)
    assert there.part("note.txt").read_text() == "small"
    assert [path.name for path in there.part("note.txt").parent.rglob("*")] == ["note.txt"]
    with pytest.raises(IntegrityError, match="gone"):
        there.part("weights")
    remote.write(f"{place}/made/note.txt", b"other")
    assert there.part("note.txt").read_text() == "small", "it is here already"
    there.part("note.txt").unlink()
    with pytest.raises(IntegrityError, match="changed"):
        there.part("note.txt")


@pytest.mark.parametrize("harm", ["changed", "missing", "manifest", "half"])
def test_a_damaged_folder_is_refused_and_leaves_nothing(place, sealed, harm):
    remote.push(sealed.path, f"{place}/made")
    if harm == "changed":
        remote.write(f"{place}/made/note.txt", b"other")
    elif harm == "missing":
        remote.remove(f"{place}/made/deep")
    elif harm == "manifest":
        remote.write(f"{place}/made/manifest.json", json.dumps({"files": {}}).encode())
    else:
        remote.remove(f"{place}/made")
        remote.push_file(sealed.path / "note.txt", f"{place}/made/note.txt")
    with pytest.raises(IntegrityError):
        _ = Artifact(uri=f"{place}/made", sha256=sealed.sha256).path
    with pytest.raises(IntegrityError):
        _ = Artifact(uri=f"{place}/made", sha256=sealed.sha256).path


def test_a_fetch_that_was_cut_brings_only_what_it_lacks(place, sealed, tmp_path, monkeypatch):
    remote.push(sealed.path, f"{place}/made")
    remote.remove(f"{place}/made/deep")
    with pytest.raises(IntegrityError, match="gone"):
        remote.pull(f"{place}/made", tmp_path / "here", sealed.sha256)
    remote.push(sealed.path, f"{place}/made")
    assert not (tmp_path / "here").exists()
    brought, bring = [], remote._bring
    monkeypatch.setattr(
        remote, "_bring", lambda s3, address, *words: brought.append(address) or bring(s3, address, *words)
    )
    remote.pull(f"{place}/made", tmp_path / "here", sealed.sha256)
    assert (tmp_path / "here" / "note.txt").read_text() == "small"
    assert len(brought) == 2


def test_a_file_that_is_there_already_is_not_sent_again(place, sealed, monkeypatch):
    remote.push(sealed.path, f"{place}/made")
    sent, send = [], remote._send
    monkeypatch.setattr(remote, "_send", lambda s3, *words: sent.append(send(s3, *words)))
    remote.push(sealed.path, f"{place}/made")
    assert sent == [False, False, False]


def test_a_file_is_brought_by_its_md5_and_refused_when_it_has_another(place, tmp_path):
    remote.write(f"{place}/one", b"film")
    digest = hashlib.md5(b"film").hexdigest()
    remote.fetch_files([(f"{place}/one", tmp_path / "one", digest)])
    assert (tmp_path / "one").read_bytes() == b"film"
    with pytest.raises(IntegrityError, match="changed"):
        remote.fetch_files([(f"{place}/one", tmp_path / "two", "0" * 32)])
    assert not list(tmp_path.glob("two*"))


def test_of_several_files_the_first_that_is_gone_is_named_and_the_rest_is_not_begun(place, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "AT_ONCE", 2)
    remote.write(f"{place}/one", b"film")
    digest = hashlib.md5(b"film").hexdigest()
    names = ["one", "gone1", "gone2", *["one"] * 40]
    with pytest.raises(IntegrityError, match=f"gone\n  got:     {place}/gone1"):
        remote.fetch_files([(f"{place}/{name}", tmp_path / str(k), digest) for k, name in enumerate(names)])
    assert (tmp_path / "0").read_bytes() == b"film"
    assert not (tmp_path / "42").exists()


def test_a_store_that_refuses_one_of_several_files_is_named_by_that_file(place, tmp_path, monkeypatch):
    remote.write(f"{place}/one", b"film")
    digest = hashlib.md5(b"film").hexdigest()
    wanted = [(f"{place}/{name}", tmp_path / name, digest) for name in ("one", "two")]
    remote.fetch_files(wanted[:1])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(remote, "TRIES", 1)
    with pytest.raises(MobileVDError, match=f"refuses(.|\\n)*{place}/two"):  # the first is here, and is not asked for
        remote.fetch_files(wanted)
    remote.fetch_files([])


@pytest.mark.parametrize(
    ("name", "value"), [("AWS_SECRET_ACCESS_KEY", "wrong"), ("AWS_ENDPOINT_URL", "http://127.0.0.1:1")]
)
def test_a_store_that_refuses_is_named_without_a_traceback_of_its_client(place, sealed, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "TRIES", 1)
    with pytest.raises(MobileVDError, match=place):
        remote.push(sealed.path, f"{place}/made")


def test_a_manifest_cannot_name_a_file_outside_its_folder(place, tmp_path):
    manifest = json.dumps({"files": {"../planted": hashlib.sha256(b"x").hexdigest()}}).encode()
    remote.write(f"{place}/made/manifest.json", manifest)
    remote.write(f"{place}/planted", b"x")
    with pytest.raises(IntegrityError, match="leaves its folder"):
        remote.pull(f"{place}/made", tmp_path / "deep" / "here")
    assert not list(tmp_path.rglob("planted"))


def test_a_file_beside_is_there_whole_or_not_at_all(place, tmp_path, monkeypatch):
    def killed(path: Path, data: bytes) -> None:
        with path.open("wb") as half:
            half.write(data[:3])
        raise KeyboardInterrupt

    monkeypatch.setenv("MOBILEVD_CACHE", str(tmp_path / "cache"))
    remote.write(f"{place}/pictures/curve.png", b"a picture")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            remote.bring_beside(f"{place}/network", "pictures/curve.png")
    assert remote.bring_beside(f"{place}/network", "pictures/curve.png").read_bytes() == b"a picture"


def test_only_s3_addresses_are_remote():
    assert remote.is_remote("s3://bucket/x")
    assert not remote.is_remote("/runs/x")
    with pytest.raises(MobileVDError, match="Artifacts cannot lie there"):
        remote.read("https://host/x")
