"""Data on a DVC remote: what `dvc push` left there comes back byte for byte, by its pin, and damage is refused."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading

import pytest
import seaweed

from mobilevd import objects, remote, transfer
from mobilevd.errors import DataError, IntegrityError, RecipeError
from mobilevd.params import check
from mobilevd.settings import Prepare
from mobilevd.video import identity, pinned

FILMS = {"one.mp4": b"a film", "deep/two.mp4": b"another film"}


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """A folder pinned and pushed with DVC itself; gives the address of the remote, and where the pin lies."""
    home = tmp_path_factory.mktemp("pushed")
    for name, content in FILMS.items():
        (home / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "data" / name).write_bytes(content)
    address = f"s3://bucket/dvc/{home.name}"
    with pytest.MonkeyPatch.context() as patch:
        seaweed.use(patch)
        dvc = [sys.executable, "-m", "dvc"]
        endpoint = seaweed.environment()["AWS_ENDPOINT_URL"]
        for words in (
            ["init", "--no-scm", "-q"],
            ["add", "-q", "data"],
            ["remote", "add", "-q", "-d", "store", address],
            ["remote", "modify", "-q", "store", "endpointurl", endpoint],
            ["push", "-q"],
        ):
            subprocess.run([*dvc, *words], cwd=home, check=True, env={**os.environ, "DVC_NO_ANALYTICS": "1"})
    return address, home / "data.dvc"


@pytest.fixture
def prepare(pushed, tmp_path, monkeypatch) -> Prepare:
    seaweed.use(monkeypatch)
    monkeypatch.setenv("MOBILEVD_CACHE", str(tmp_path / "cache"))
    remote.push_file(pushed[1], f"{pushed[0]}/data.dvc")
    return Prepare(data=pushed[0], pin=f"{pushed[0]}/data.dvc")


def brought(prepare: Prepare):
    files, known = pinned.files(prepare)
    return pinned.bring(prepare, files, known), known


def test_only_the_files_of_a_shard_are_brought(prepare, tmp_path):
    files, known = pinned.files(prepare)
    assert set(files) == set(FILMS)
    folder = pinned.bring(prepare, {"one.mp4": files["one.mp4"]}, known)
    assert [p.name for p in folder.rglob("*") if p.is_file()] == ["one.mp4"]


def test_many_files_are_brought_by_one_client_and_several_at_once(prepare, monkeypatch):
    """Each of twenty files waits until three others are on their way as well, which one after the other never are."""
    held = {f"{k:02d}.mp4": f"film {k}".encode() for k in range(20)}
    files = {name: hashlib.md5(content).hexdigest() for name, content in held.items()}
    for name, digest in files.items():
        remote.write(f"{prepare.data}/files/md5/{digest[:2]}/{digest[2:]}", held[name])
    made, client, bring, together = [], objects.client, transfer.bring, threading.Barrier(4, timeout=60)
    monkeypatch.setattr(objects, "client", lambda *words: made.append(client(*words)) or made[-1])
    monkeypatch.setattr(transfer, "bring", lambda *words: (together.wait(), bring(*words)))
    folder = pinned.bring(prepare, files, "many.dir")
    assert len(made) == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".mp4"} == held
    pinned.bring(prepare, files, "many.dir")
    assert together.n_waiting == 0


def test_files_on_this_disk_have_the_md5_that_a_pin_would_give_them(tmp_path):
    from dvc.repo import Repo

    for name, content in FILMS.items():
        (tmp_path / "films" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "films" / name).write_bytes(content)
    (tmp_path / "films" / "gone.mp4").symlink_to(tmp_path / "gone.mp4")
    found = {name: hashlib.md5(content).hexdigest() for name, content in FILMS.items()}
    loose = Prepare(data=str(tmp_path / "films"), pin=None)
    assert pinned.files(loose) == (found | {"gone.mp4": ""}, pinned.md5(loose))
    (tmp_path / "films" / "gone.mp4").unlink()
    with Repo.init(str(tmp_path), no_scm=True) as repo:
        repo.add(str(tmp_path / "films"))
    tied = loose.model_copy(update={"pin": str(tmp_path / "films.dvc")})
    assert pinned.files(tied) == (found, pinned.md5(tied))


@pytest.mark.slow
def test_the_pinned_files_come_back_with_the_identity_that_dvc_gave_them(prepare, pushed):
    folder, md5 = brought(prepare)
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == FILMS
    assert md5 == pinned.md5(prepare) == identity.identity(pushed[1])
    by_file = prepare.model_copy(update={"pin": str(pushed[1])})
    assert brought(by_file) == (folder, md5)


def test_a_file_that_was_brought_and_then_changed_is_brought_again(prepare):
    folder, _ = brought(prepare)
    (folder / "one.mp4").write_bytes(b"tampered")
    brought(prepare)
    assert (folder / "one.mp4").read_bytes() == b"a film"


@pytest.mark.parametrize("which", ["file", "list"])
def test_what_was_changed_on_the_remote_is_refused(prepare, which, tmp_path, monkeypatch):
    md5 = pinned.md5(prepare)
    name = pinned.listing(prepare, md5)[0]["md5"] if which == "file" else md5
    copied = f"{prepare.data}-{which}"
    for key in remote.names(f"{prepare.data}/files"):
        remote.write(f"{copied}/files/{key}", remote.read(f"{prepare.data}/files/{key}"))
    remote.write(f"{copied}/files/md5/{name[:2]}/{name[2:]}", b"[]")
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    with pytest.raises((DataError, IntegrityError)):
        brought(prepare.model_copy(update={"data": copied}))


def test_a_listing_cannot_write_outside_its_folder():
    for name in ("../planted", "/planted", "a/../../planted"):
        with pytest.raises(DataError, match="leaves its folder"):
            pinned._inside(name)


def test_a_pin_of_something_else_is_refused(prepare):
    remote.write(f"{prepare.data}/odd.dvc", b"outs: [{md5: abc, path: one-file}]")
    with pytest.raises(DataError, match="names no folder"):
        pinned.md5(prepare.model_copy(update={"pin": f"{prepare.data}/odd.dvc"}))


def test_a_pin_that_is_not_there_is_told_with_its_place(pushed, tmp_path):
    told = f"not pinned\n  got:     no {tmp_path}/gone.dvc\n  allowed: .*\n  where:   prepare.pin"
    with pytest.raises(DataError, match=told):
        pinned.md5(Prepare(data=pushed[0], pin=f"{tmp_path}/gone.dvc"))


def test_data_on_s3_without_a_pin_is_refused():
    import candidates

    with pytest.raises(RecipeError, match="pin names the folder"):
        check(candidates.SECTIONS | {"prepare": {"data": "s3://bucket/dvc", "pin": None}})
