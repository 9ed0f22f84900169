"""What git says of a checkout; None where there is no git, or the command fails."""

import subprocess
from pathlib import Path


def git(folder: Path, *words: str) -> str | None:
    """What ``git`` prints in ``folder``."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None
