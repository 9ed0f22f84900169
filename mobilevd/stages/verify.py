"""Verify: from the weights of a model back to the clips, link by link, until one does not hold.

**Keeps** the first broken link is named; what this machine cannot look at is said to be unchecked, never to hold
(``tests/stages/test_verify.py``).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from mobilevd import params, remote
from mobilevd.artifacts import MANIFEST, file_sha256
from mobilevd.errors import DataError, IntegrityError, MobileVDError
from mobilevd.packages import project_root
from mobilevd.params import Recipe
from mobilevd.registry import acceptance, versions
from mobilevd.stages import lineage, models, promote
from mobilevd.stages.checkout import git
from mobilevd.stages.lineage import broken

HOLDS, UNCHECKED, BROKEN = "holds", "unchecked", "broken"


@dataclass(frozen=True)
class Link:
    """One link of the chain: whether it holds, and what was seen."""

    link: str
    state: str
    seen: str


@dataclass(frozen=True)
class _Case:
    """What the links are checked on."""

    folder: Path
    version: versions.Version | None
    told: dict[str, Any]
    root: Path

    def recipe(self) -> Recipe:
        return params.check(yaml.safe_load((self.folder / lineage.RECIPE).read_text(encoding="utf-8")), "the bundle")


def walk(address: str, root: Path | None = None) -> Iterator[Link]:
    """Every link from weights to clips, the broken one last.

    Args:
        address: a bundle's folder, or a registered model; only the latter's digest and report were noted elsewhere.
        root: the checkout that holds code, pin and data (default: this project's).
    Errors: MobileVDError when the name leads nowhere.
    """
    known = models.version_of(address, "MODEL") if models.is_registered(address) else None
    if known is None and not remote.is_remote(address):
        models.folder(address, "MODEL")
    case = None
    for name, look in LINKS.items():
        try:
            case = case or _opened(address, known, root or project_root())
            seen = look(case)
        except MobileVDError as error:
            yield Link(name, BROKEN, f"{error.what}: got {error.got}, allowed {error.allowed}")
            return
        yield Link(name, HOLDS if not seen.startswith(UNCHECKED) else UNCHECKED, seen.removeprefix(f"{UNCHECKED}: "))


def _opened(address: str, known: versions.Version | None, root: Path) -> _Case:
    folder = models.folder(address, "MODEL")
    return _Case(folder, known, lineage.read(folder), root)


def _weights(case: _Case) -> str:
    noted = case.version.tags.get("bundle_sha256") if case.version else file_sha256(case.folder / MANIFEST)
    lineage.check_weights(case.folder, noted)
    if case.version is not None:
        promote.check_description(case.version)
    return f"every file of the bundle, {noted[:12]}{'' if case.version else ', which nobody else has noted'}"


def _stages(case: _Case) -> str:
    """Every stage read what an earlier one of this run made, and the gate judged this run's artifacts."""
    lineage.check_stages(case.folder)
    stages = case.told["stages"]
    made = {stage: set(record["artifacts"].values()) for stage, record in stages.items()}
    made["base"] = {case.told["base"]["sha256"]}
    for stage, record in stages.items():
        for parent, digest in record["parents"].items():
            origin = parent.rpartition(".")[0] or parent
            if digest not in made.get(origin, set()):
                wanted = ", ".join(sorted(made.get(origin, set()))) or "nothing"
                raise broken(f"stages: {stage} read another {parent} than was made", digest, wanted, case.folder)
    if case.version is None:
        return f"{len(stages)} stages; the gate's own report is not at hand"
    with versions.gate_report(case.version) as stored:
        lineage.check_report(case.folder, stored)
    return f"{len(stages)} stages, each on what others of this run made; the report is the gate's"


def _recipe(case: _Case) -> str:
    wanted = case.told["recipe"]["sha256"]
    recipe = case.recipe()
    acceptance.passed_report(case.folder / lineage.REPORT, wanted)
    lineage.check_gates(case.folder)
    if recipe.digest != wanted:
        raise broken("recipe: the bundle's recipe is another", recipe.digest, wanted, case.folder)
    if case.version is not None and case.version.tags.get("recipe_digest") != wanted:
        raise broken("recipe: another was registered", case.version.tags.get("recipe_digest"), wanted, case.folder)
    return f"{recipe.name} {wanted[:12]}; every gate passed"


def _code(case: _Case) -> str:
    commit = case.told["git_commit"]
    if commit == "unknown" or commit.endswith("+dirty"):
        allowed = "a commit, with nothing changed beside it"
        raise IntegrityError("The code that made it is in no commit", got=commit, allowed=allowed)
    if git(case.root, "rev-parse", "HEAD") is None:
        return f"{UNCHECKED}: commit {commit[:12]}; this is no checkout"
    if git(case.root, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        raise IntegrityError("This checkout does not hold the commit", got=commit, allowed="git fetch may bring it")
    return f"commit {commit[:12]}"


def _environment(case: _Case) -> str:
    told = case.told.get("versions") or {}
    if not told:
        raise broken("environment: no versions were noted", "nothing", "Python's and its packages'", case.folder)
    here = {name: _installed(name) for name in told if name not in ("python", "mobilevd")}
    other = [f"{name} {told[name]}, here {here[name]}" for name in here if here[name] != told[name]]
    return f"{UNCHECKED}: {'; '.join(other)}" if other else "the versions are those installed here"


def _pin(case: _Case) -> str:
    """The commit's own pin is the data that the stages say they read."""
    recipe, md5, commit = case.recipe(), case.told["data_md5"], case.told["git_commit"]
    if recipe.prepare.pin is None:
        return f"{UNCHECKED}: data {md5}; the recipe pins none"
    text = git(case.root, "show", f"{commit}:{recipe.prepare.pin}")
    if text is None:
        return f"{UNCHECKED}: data {md5}; {recipe.prepare.pin} of that commit is not at hand"
    pinned = yaml.safe_load(text)["outs"][0]["md5"]
    if pinned != md5:
        raise broken(f"{recipe.prepare.pin}: it pins other data", pinned, md5, case.folder)
    return f"{recipe.prepare.pin} pins {md5}"


def _clips(case: _Case) -> str:
    """Every clip that lies here has the bytes that were pinned."""
    from mobilevd.video import identity

    recipe, md5 = case.recipe(), case.told["data_md5"]
    data = case.root / recipe.prepare.data
    if not data.is_dir():
        return f"{UNCHECKED}: {recipe.prepare.data} is not here"
    pin = recipe.prepare.pin
    if pin and identity.identity(case.root / pin) != md5:
        return f"{UNCHECKED}: {pin} here pins {identity.identity(case.root / pin)}; check the commit out"
    got = identity.check(data, case.root / pin) if pin else identity.unpinned(data)
    if got != md5:
        raise DataError("The clips are others", got=got, allowed=md5, where=str(data))
    return f"every file under {recipe.prepare.data}"


LINKS: dict[str, Callable[[_Case], str]] = {
    "weights": _weights,
    "stages": _stages,
    "recipe": _recipe,
    "code": _code,
    "environment": _environment,
    "data pin": _pin,
    "clips": _clips,
}


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
