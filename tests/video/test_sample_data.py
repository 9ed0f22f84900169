import shutil

import pytest

from mobilevd import packages
from mobilevd.artifacts import file_sha256
from mobilevd.errors import DataError
from mobilevd.video import clips, identity, sample_data

PINNED = {sample.path: sample.sha256 for samples in sample_data.FILES.values() for sample in samples}


@pytest.fixture(scope="module")
def brought(tmp_path_factory):
    """The sample set, fetched for real (from the cache when it was fetched before)."""
    folder = tmp_path_factory.mktemp("sample") / "data"
    sample_data.bring(folder)
    return folder


def test_every_file_has_its_pinned_bytes_and_a_stated_origin(brought):
    there = {p.relative_to(brought).as_posix(): file_sha256(p) for p in brought.rglob("*") if p.is_file()}
    assert there == PINNED
    assert len(there) == 16
    assert all(sample.origin for samples in sample_data.FILES.values() for sample in samples)


def test_bringing_twice_changes_nothing_and_mends_what_is_missing(brought, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(brought, folder)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    (folder / "videos" / "bikes.mp4").unlink()
    assert len(sample_data.bring(folder)) == 16
    after = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    assert {p.name for p in after if after[p] != before[p]} <= {"bikes.mp4"}
    assert file_sha256(folder / "videos" / "bikes.mp4") == PINNED["videos/bikes.mp4"]


def test_file_of_the_same_name_with_other_bytes_is_never_overwritten(brought, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "coins.png").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"coins\.png is not the sample file"):
        sample_data.bring(tmp_path)
    assert (tmp_path / "photos" / "coins.png").read_bytes() == b"mine"


def test_identity_is_the_one_that_the_repository_pins(brought, tmp_path):
    root = packages.project_root()
    assert identity.identity(root / "data.dvc") == sample_data.IDENTITY
    for name in ("data.dvc", ".dvcignore", ".dvc/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / name, tmp_path / name)
    shutil.copytree(brought, tmp_path / "data")
    assert identity.check(tmp_path / "data", tmp_path / "data.dvc") == sample_data.IDENTITY


def test_fresh_clone_without_dvc_cache_names_the_files_that_drifted(brought, tmp_path):
    root = packages.project_root()
    for name in ("data.dvc", ".dvc/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / name, tmp_path / name)
    shutil.copytree(brought, tmp_path / "data")
    (tmp_path / "data" / "photos" / "moon.png").unlink()
    (tmp_path / "data" / "photos" / "coins.png").write_bytes(b"x")
    (tmp_path / "data" / "mine.mp4").write_bytes(b"x")
    with pytest.raises(DataError) as error:
        identity.check(tmp_path / "data", tmp_path / "data.dvc")
    for line in ("added: mine.mp4", "changed: photos/coins.png", "missing: photos/moon.png", "dvc add data"):
        assert line in str(error.value)


def test_held_out_sources_are_the_ones_the_pocket_base_has_never_seen(brought):
    sides = clips.sides(clips.sources(brought), 0.3)
    assert {name for name, side in sides.items() if side == "validation"} == {
        "photos/camera.png",
        "photos/chelsea.png",
        "photos/coins.png",
        "photos/rocket.jpg",
        "videos/carphone_pristine.mp4",
    }
