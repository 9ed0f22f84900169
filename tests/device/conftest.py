import fcntl
import tempfile

import one_step_graphs
import pytest

from mobilevd.device import quiet


@pytest.fixture(scope="session")
def graphs(tmp_path_factory):
    return one_step_graphs.copy(tmp_path_factory)


@pytest.fixture
def taken(tmp_path, monkeypatch):
    """A temporary folder of this test, for its processes too, and so locks of its own; says whether one is held."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)

    def held(phone=""):
        if not quiet.lock(phone).is_file():
            return False
        with quiet.lock(phone).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    return held
