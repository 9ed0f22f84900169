"""A model under the name that people give it: a folder, ``s3://…``, ``models:/name/7`` or ``models:/name@champion``.

**Keeps** what a registered name leads to has the digest that was noted at registration; a fetched copy is kept, whole
or not at all, and checked again on every load (``tests/stages/test_models.py``).
"""

import hashlib
import re
import shutil
import tempfile
from pathlib import Path

from mobilevd import remote
from mobilevd.artifacts import MANIFEST, file_sha256, verify
from mobilevd.errors import IntegrityError, MobileVDError
from mobilevd.packages import cache_dir
from mobilevd.registry.ledger import Ledger, projection

SCHEME = "models:/"
ADDRESS = re.compile(r"models:/+(?P<name>[^/@]+)(?:/(?P<number>\d+)|@(?P<alias>[^/@]+))")


def is_registered(address: str) -> bool:
    """Whether ``address`` names a registered model and no folder."""
    return address.startswith(SCHEME)


def folder(address: str, where: str = "--model") -> Path:
    """The bundle's folder on this machine; one in a remote store is fetched once, into the cache.

    ``where`` the address was given: the option or argument that an error names.

    Errors: MobileVDError for a name that leads nowhere; IntegrityError when the store holds another bundle than the
    one registered.
    """
    if address.startswith("s3://"):
        return _pulled(address)
    if not is_registered(address):
        return _on_disk(address, where)
    from mobilevd.registry import versions

    version = version_of(address, where)
    if (digest := version.tags.get("bundle_sha256")) is None:
        raise IntegrityError("The version has no digest of its own", got=address, allowed="a tag bundle_sha256")
    kept = cache_dir() / "models" / digest
    if not kept.exists():
        with versions.bundle(version) as stored:
            if versions.is_here(version):
                return _of_digest(stored, digest)
            _keep(stored, kept, digest)
    return _of_digest(kept, digest)


def version_of(address: str, where: str = "--model"):
    """The registered version that ``address``, given ``where``, names. Who is champion the ledger says, if it is known.

    Errors: MobileVDError for an address of another form, or one that leads nowhere.
    """
    from mobilevd.registry import versions

    parts = ADDRESS.fullmatch(address)
    if parts is None:
        raise _no_model("This names no model", address, where)
    name, number, alias = parts["name"], parts["number"], parts["alias"]
    if number:
        return versions.find(name, number, where)
    if versions.knows_ledger():
        stated = projection(Ledger(versions.ledger_address(name)).history())
        if alias in stated:
            return versions.find(name, stated[alias], where)
    return versions.aliased(name, alias, where)


def _on_disk(address: str, where: str) -> Path:
    if "://" in address:
        raise _no_model("This names no model", address, where)
    if not Path(address).is_dir():
        raise _no_model("There is no such model", address, where)
    return Path(address)


def _no_model(what: str, address: str, where: str) -> MobileVDError:
    allowed = "a bundle's folder, s3://bucket/prefix, models:/mobilevd/7 or models:/mobilevd@champion"
    return MobileVDError(what, got=address, allowed=allowed, where=where)


def _pulled(address: str) -> Path:
    manifest = remote.read(f"{address.rstrip('/')}/{MANIFEST}")
    return remote.fetch(address.rstrip("/"), hashlib.sha256(manifest).hexdigest())


def _of_digest(bundle: Path, digest: str) -> Path:
    """The manifest's digest only: the files are checked by whoever loads them."""
    manifest = bundle / MANIFEST
    if not manifest.is_file() or file_sha256(manifest) != digest:
        raise IntegrityError(
            "This is not the bundle that was registered",
            got=file_sha256(manifest) if manifest.is_file() else "no manifest",
            allowed=digest,
            where=str(bundle),
        )
    return bundle


def _keep(stored: Path, kept: Path, digest: str) -> None:
    verify(stored, digest)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".part-") as aside:
        whole = Path(shutil.copytree(stored, Path(aside) / "bundle"))
        try:
            whole.rename(kept)
        except OSError:  # another process was first; what it kept is checked like ours
            if not kept.exists():
                raise
