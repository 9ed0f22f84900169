"""A folder as the only place where Metaflow keeps its notes of a test's flows, and their cards."""

from pathlib import Path

import pytest


def use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in ``folder`` from here on, as a user of Metaflow's with a name, and leave everything of it there."""
    monkeypatch.setenv("METAFLOW_USER", "tests")
    monkeypatch.setenv("METAFLOW_DATASTORE_SYSROOT_LOCAL", str(folder))
    monkeypatch.setenv("METAFLOW_CARD_LOCALROOT", str(folder / ".metaflow"))
    monkeypatch.chdir(folder)
