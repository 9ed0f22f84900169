import hashlib
import shutil

import pytest
from dvc.repo import Repo

from mobilevd.errors import DataError
from mobilevd.video import identity


@pytest.fixture
def project(tmp_path):
    """A team's own folder of two videos, pinned with DVC."""
    for name in ("a.mp4", "more/b.mp4"):
        (tmp_path / "films" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "films" / name).write_bytes(name.encode())
    with Repo.init(str(tmp_path), no_scm=True) as repo:
        repo.add(str(tmp_path / "films"))
    return tmp_path


def check(project):
    return identity.check(project / "films", project / "films.dvc")


def test_folder_that_equals_its_pin_passes_from_any_working_directory(project, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    md5 = check(project)
    assert md5 == identity.identity(project / "films.dvc")
    assert md5.endswith(".dir")
    assert md5 in (project / "films.dvc").read_text()


def test_check_needs_no_dvc_cache(project):
    shutil.rmtree(project / ".dvc" / "cache")
    check(project)


def test_drift_names_added_changed_and_missing_files_and_how_to_pin(project):
    (project / "films" / "a.mp4").write_bytes(b"other")
    (project / "films" / "more" / "b.mp4").unlink()
    (project / "films" / "c.mp4").write_bytes(b"new")
    with pytest.raises(DataError) as error:
        check(project)
    for line in ("changed: a.mp4", "missing: more/b.mp4", "added: c.mp4", "dvc add films", "drifted from films.dvc"):
        assert line in str(error.value)


def test_drift_stops_even_when_the_pinned_list_is_unknown(project):
    shutil.rmtree(project / ".dvc" / "cache")
    (project / "films" / "a.mp4").write_bytes(b"other")
    with pytest.raises(DataError, match="does not hold the list"):
        check(project)


def test_pin_again_after_a_change_gives_another_identity(project):
    before = check(project)
    (project / "films" / "a.mp4").write_bytes(b"other")
    with Repo(str(project)) as repo:
        repo.add(str(project / "films"))
    assert check(project) != before


def test_pin_of_another_folder_is_refused(project):
    (project / "elsewhere").mkdir()
    with pytest.raises(DataError, match="belongs to another folder"):
        identity.check(project / "elsewhere", project / "films.dvc")


def test_missing_pin_missing_folder_and_missing_repository_are_told_apart(project):
    with pytest.raises(DataError, match="not pinned"):
        identity.check(project / "films", project / "none.dvc")
    shutil.rmtree(project / "films")
    with pytest.raises(DataError, match="There is no data"):
        check(project)
    shutil.rmtree(project / ".dvc")
    with pytest.raises(DataError, match="DVC cannot read"):
        check(project)


def test_contents_of_a_pinned_and_of_a_loose_folder_are_the_md5_of_every_file(project):
    films = project / "films"
    told = {name: hashlib.md5(name.encode()).hexdigest() for name in ("a.mp4", "more/b.mp4")}
    assert identity.contents(films, project / "films.dvc") == (told, check(project))
    assert identity.contents(films, None) == (told, identity.unpinned(films))


def test_unpinned_identity_depends_on_names_and_bytes_only(tmp_path):
    def folder(where, **files):
        (tmp_path / where).mkdir()
        for name, content in files.items():
            (tmp_path / where / name).write_text(content)
        return identity.unpinned(tmp_path / where)

    same = folder("one", a="1", b="2")
    assert folder("two", b="2", a="1") == same
    assert len({same, folder("three", a="2", b="1"), folder("four", a="1", c="2"), folder("five", a="1")}) == 4
