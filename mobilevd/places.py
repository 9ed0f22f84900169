"""Where the project keeps things on this machine: its own files, what it fetched, what it works on."""

import os
from pathlib import Path

HOME = "MOBILEVD_HOME"


def project_root() -> Path:
    """``$MOBILEVD_HOME``; else the folder that holds pyproject.toml beside the package; else the working directory."""
    if chosen := os.environ.get(HOME):
        return Path(chosen).resolve()
    beside = Path(__file__).resolve().parents[1]
    return beside if (beside / "pyproject.toml").is_file() else Path.cwd()


def cache_dir() -> Path:
    """Where fetched and computed files are kept: $MOBILEVD_CACHE, or ``.cache/mobilevd`` in the project."""
    chosen = os.environ.get("MOBILEVD_CACHE")
    return Path(chosen).expanduser().resolve() if chosen else project_root() / ".cache" / "mobilevd"
