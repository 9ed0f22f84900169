"""What a run has made and MLflow has not yet taken: kept on disk, so that registering can be completed later.

**Keeps** no password is written; what is completed is the bundle that was sealed (``tests/stages/test_pending.py``).
"""

import json
import os
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

from mobilevd import params
from mobilevd.artifacts import Artifact, StageRecord, write_json
from mobilevd.errors import MobileVDError
from mobilevd.params import Recipe
from mobilevd.progress import say
from mobilevd.registry import acceptance
from mobilevd.secrecy import sanitised
from mobilevd.stages import plan

FILE = "pending.json"
RETRIES = "2"  # of someone who waits at a terminal; a run that ends has more patience


class Pending(BaseModel):
    """The records of a run and its sealed bundle, before they are logged."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    records: dict[str, StageRecord]
    bundle: Artifact
    figures: dict[str, float]
    started_at: float

    def save(self, folder: Path) -> None:
        """Write it into the register stage's ``folder``."""
        write_json(folder / FILE, json.loads(sanitised(json.dumps(self.model_dump(mode="json")))))


def load(folder: Path) -> Pending:
    """What is pending in ``folder``. Errors: MobileVDError when nothing is."""
    path = folder / FILE
    if not path.is_file():
        allowed = f"the register folder of a run that was not registered, with {FILE} in it"
        raise MobileVDError("Nothing is left to register here", got=str(folder), allowed=allowed, where="--resume")
    return Pending(**json.loads(path.read_text(encoding="utf-8")))  # as written: figures may be NaN


def check(folder: Path, given: Recipe | None) -> None:
    """Whether there is something to complete and a server that takes it, found out within seconds.

    Errors: as ``load`` and ``recipe``, and MobileVDError when MLflow does not answer.
    """
    made = load(folder)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", RETRIES)
    try:
        acceptance.registered(recipe(made, given).registry.model, made.bundle.sha256)
    except MobileVDError:
        say(kept(folder))
        raise


def kept(folder: Path) -> str:
    """How to go on, in words."""
    return f"what was made is kept in {folder}: `mobilevd register --resume {folder}` completes it"


def done(folder: Path) -> None:
    """Nothing is pending any more."""
    (folder / FILE).unlink(missing_ok=True)


def newest() -> Path:
    """The folder under ``runs`` that was left last. Errors: MobileVDError when none was."""
    runs = Path(plan.runs())
    found = sorted(runs.glob(f"*/*/register/{FILE}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise MobileVDError("Every run under this folder is registered or rejected", got=str(runs), where="--resume")
    return found[-1].parent


def recipe(made: Pending, given: Recipe | None) -> Recipe:
    """The recipe of the run: ``given``, or the bundle's copy. Errors: MobileVDError when it is another one."""
    chosen = given or params.check(yaml.safe_load((made.bundle.path / "recipe.yaml").read_text(encoding="utf-8")))
    wanted = made.records["gate"].recipe_digest
    if chosen.digest != wanted:
        what = "This is not the run's recipe" if given else "The bundle's copy of the recipe is not the whole of it"
        allowed = f"recipe {wanted}"
        raise MobileVDError(what, got=chosen.digest, allowed=allowed, where="--recipe FILE")
    return chosen
