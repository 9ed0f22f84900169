"""A name leads to the bundle that was registered under it and to no other; what was fetched is kept whole."""

import shutil
from pathlib import Path

import candidates
import mlflow_store
import pytest
from candidates import MODEL

from mobilevd.artifacts import seal, verify
from mobilevd.errors import IntegrityError, MobileVDError
from mobilevd.registry import versions
from mobilevd.stages import models, promote


@pytest.fixture(scope="module", autouse=True)
def switched(tmp_path_factory):
    """Version 1, then 2 as champion, then 3 and 4, which never were."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv(versions.LEDGER, raising=False)
        mlflow_store.use(tmp_path_factory.mktemp("store"), patched)
        for number in range(4):
            version = candidates.offer(tmp_path_factory.mktemp("run"))
            if number < 2:
                promote.run(MODEL, promote.candidate(MODEL, version, "tried"), lambda folder: None)
        yield


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MOBILEVD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_folder_is_itself(tmp_path):
    assert models.folder(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    ("address", "number"),
    [("models:/mobilevd/3", "3"), ("models:/mobilevd@champion", "2"), ("models:/mobilevd@previous", "1")],
)
def test_number_and_alias_lead_to_the_stored_bundle(address, number):
    assert models.folder(address) == candidates.stored(number)


def test_ledger_says_who_is_champion_when_the_alias_lags_behind():
    versions.point(MODEL, "champion", "3")
    try:
        assert models.version_of("models:/mobilevd@champion").number == "2"
    finally:
        promote.reconcile(MODEL)


def test_alias_that_the_ledger_knows_nothing_of_is_mlflows():
    versions.point(MODEL, "beta", "3")
    assert models.version_of("models:/mobilevd@beta").number == "3"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("models:/mobilevd", "names no model"),
        ("models:/mobilevd/newest", "names no model"),
        ("models:/mobilevd/../3", "names no model"),
        ("models:/mobilevd/99", r"no such version(.|\n)*--model"),
        ("models:/mobilevd@nobody", "no such alias"),
        ("models:/stranger@champion", "MLflow does not tell"),
        ("nope", r"no such model(.|\n)*nope(.|\n)*--model"),
        ("https://host/bundle", "names no model"),
    ],
)
def test_name_that_leads_nowhere_is_refused(address, said):
    with pytest.raises(MobileVDError, match=said):
        models.folder(address)


@pytest.mark.parametrize(
    "address", ["nope", "https://host/bundle", "models:/mobilevd", "models:/mobilevd/99", "models:/mobilevd@nobody"]
)
def test_refusal_names_the_place_where_the_model_was_asked_for(address):
    with pytest.raises(MobileVDError) as error:
        models.folder(address, "MODEL")
    assert error.value.where == "MODEL"


def test_bundle_that_is_not_the_registered_one_is_refused():
    folder = candidates.stored("4")
    (folder / "unet" / "weights.safetensors").write_text("another network")
    seal(folder)
    with pytest.raises(IntegrityError, match="not the bundle that was registered"):
        models.folder("models:/mobilevd/4")


def test_bundle_of_a_remote_store_is_fetched_once_and_whole(cache, monkeypatch):
    fetched = []
    inside = versions.bundle

    def counted(version):
        fetched.append(version.number)
        return inside(version)

    monkeypatch.setattr(versions, "is_here", lambda version: False)
    monkeypatch.setattr(versions, "bundle", counted)
    first = models.folder("models:/mobilevd/3")
    assert models.folder("models:/mobilevd/3") == first
    assert fetched == ["3"]
    assert first.is_relative_to(cache)
    verify(first, versions.find(MODEL, "3").tags["bundle_sha256"])
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_fetched_bundle_that_was_damaged_on_its_way_is_not_kept(cache, monkeypatch, tmp_path):
    broken = Path(shutil.copytree(candidates.stored("3").parent, tmp_path / "broken"))
    (broken / "bundle" / "unet" / "weights.safetensors").write_text("cut")
    monkeypatch.setattr(versions, "is_here", lambda version: False)
    monkeypatch.setattr(versions, "_local", lambda address: broken)
    with pytest.raises(IntegrityError, match=r"unet/weights\.safetensors"):
        models.folder("models:/mobilevd/3")
    assert list(cache.rglob("*.safetensors")) == []
