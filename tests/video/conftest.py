"""Real awkward files, where they are at hand."""

from pathlib import Path

import pytest

ASSETS = Path(__file__).resolve().parents[3] / "shared" / "assets"


@pytest.fixture(scope="session")
def assets():
    """The folder of real files; tests that need it say so when it is not there."""
    if not ASSETS.is_dir():
        pytest.skip("the folder of real awkward files is not beside the project: own files are tested only")
    return ASSETS
