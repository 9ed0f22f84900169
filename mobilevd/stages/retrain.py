"""Retrain: is there anything to do, what of the champion's run still holds, and what becomes of the result.

**Keeps** the same recipe on the same data is not run twice, nor by two schedules at once
(``tests/stages/test_retrain.py``).
"""

import json
from collections.abc import Mapping
from importlib.metadata import version as installed
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict

from mobilevd import alerts, params
from mobilevd.artifacts import StageRecord
from mobilevd.errors import RecipeError
from mobilevd.params import Recipe
from mobilevd.registry import acceptance, history, ledger, versions
from mobilevd.stages import lineage, plan, promote, reuse
from mobilevd.turns import Turns
from mobilevd.video import pinned

AUTOMATIC = "automatic"


class Decision(BaseModel):
    """Whether to train, and why; what will run; the records that need not be made again."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    due: bool
    why: str
    plan: str = ""
    records: dict[str, StageRecord] = {}


class Settled(NamedTuple):
    """This run against the champion, figure by figure, what became of it, and its version if it is champion now."""

    rows: list[dict[str, Any]]
    outcome: str
    champion: str | None


class Champion(NamedTuple):
    """The champion as its bundle and its run tell it; ``recipe`` is None when this code would not make it again."""

    number: str
    run_id: str
    data_md5: str
    recipe_sha256: str
    recipe: Recipe | None
    figures: dict[str, float]


def decide(recipe: Recipe, token: str, folder: str, force: bool = False) -> Decision:
    """Take the turn and say what there is to do; without anything to do, or after an error, it is given back at once.

    ``force``: put another run's turn aside, and train even what was trained before, from the first stage.
    Errors: MobileVDError when the registry does not answer or the recipe cannot run; DataError without a pin.
    """
    turn = turns(recipe)
    if (holder := turn.take(token, force)) is not None:
        why = f"{holder.token} is at it: a sign of life at {holder.at:%H:%M} UTC, good until {holder.until:%H:%M}"
        return Decision(due=False, why=why)
    decision = None
    try:
        decision = look(recipe, folder, force)
    finally:
        if decision is None or not decision.due:
            turn.end(token)
    return decision


def look(recipe: Recipe, folder: str, force: bool = False) -> Decision:
    """What there is to do, whoever has the turn. Errors: as ``decide``."""
    data_md5 = pinned.md5(recipe.prepare)
    before = None if force else history.same(recipe, data_md5)
    if before is not None:
        became = f"became version {before.version}" if before.version else f"was {before.verdict}"
        return Decision(due=False, why=f"this recipe on this data {became} in run {before.run_id}")
    what = plan.announce(recipe, folder)
    if force:
        return Decision(due=True, why="it was asked for by force", plan=what)
    best = champion(recipe.registry.model)
    records = history.records(best.run_id) if best and best.recipe else {}
    kept = reuse.still_valid(recipe, best.recipe if best else None, data_md5, records)
    return Decision(due=True, why=_reason(recipe, best, data_md5, kept), plan=what, records=kept)


def turns(recipe: Recipe) -> Turns:
    """Whose turn it is to retrain the recipe's model."""
    return Turns(versions.turns_address(recipe.registry.model), recipe.retrain.lease_hours)


def champion(model: str) -> Champion | None:
    """The model to beat; None before the first promotion. Errors: MobileVDError, IntegrityError."""
    number = ledger.champion(promote.ledger(model).history())
    if number is None:
        return None
    version = versions.find(model, number)
    with versions.bundle(version) as folder:
        told = lineage.read(folder)
        report = json.loads((folder / lineage.REPORT).read_text(encoding="utf-8"))
        recipe = _recipe(told, yaml.safe_load((folder / lineage.RECIPE).read_text(encoding="utf-8")))
    figures = report.get("figures", {})
    return Champion(number, version.run_id, told["data_md5"], told["recipe"]["sha256"], recipe, figures)


def compare(recipe: Recipe, best: Champion | None, records: Mapping[str, StageRecord]) -> list[dict[str, Any]]:
    """One row per figure that a gate looks at: the champion's, this run's, the change in percent."""
    from mobilevd.stages import gate

    mine, rows = gate.merge(records), []
    for metric in dict.fromkeys(item.metric for item in recipe.gates):
        before, after = (best.figures if best else {}).get(metric), mine.get(metric)
        change = 100 * (after / before - 1) if before and after is not None else None
        rows.append({"figure": metric, "champion": before, "this run": after, "change, %": change})
    return rows


def settle(
    recipe: Recipe, token: str, records: Mapping[str, StageRecord], smoke: promote.Smoke = promote.animate
) -> Settled:
    """Hold the result against the champion, offer it to promotion, and leave the turn to others.

    Errors: PromotionError when an automatic promotion is refused; MobileVDError.
    """
    try:
        rows = compare(recipe, champion(recipe.registry.model), records)
        return Settled(rows, *_offered(recipe, records, smoke))
    finally:
        turns(recipe).end(token)


def _offered(recipe: Recipe, records: Mapping[str, StageRecord], smoke: promote.Smoke) -> tuple[str, str | None]:
    model, number = recipe.registry.model, records["register"].facts["version"]
    if records["gate"].facts["verdict"] != acceptance.PASSED:
        return "a gate did not pass, so nothing is offered", None
    if recipe.retrain.promote == AUTOMATIC:
        return promote.run(model, promote.candidate(model, number, "retrained"), smoke).line, number
    waits = f"version {number} waits for a person: python flows/promote_flow.py run --version {number}"
    alerts.tell(f"{model}: {waits}", event="mobilevd.candidate", model=model, version=number)
    return waits, None


def _reason(recipe: Recipe, best: Champion | None, data_md5: str, kept: Mapping[str, StageRecord]) -> str:
    if best is None:
        return "there is no champion yet"
    moved = [f"data {best.data_md5[:12]} → {data_md5[:12]}"] if data_md5 != best.data_md5 else []
    same = recipe.digest == best.recipe_sha256
    moved += [] if same else [f"recipe {best.recipe_sha256[:12]} → {recipe.digest[:12]}"]
    what = " and ".join(moved) or "its run is not written down whole"
    return f"since champion {best.number}: {what}; still valid: {', '.join(kept) or 'no stage'}"


def _recipe(told: Mapping[str, Any], values: dict[str, Any]) -> Recipe | None:
    """The recipe that a bundle was made under, when this version of the code reads it and would do the same with it."""
    if told["versions"].get("mobilevd") != installed("mobilevd"):
        return None
    try:
        recipe = params.check(values)
    except RecipeError:
        return None
    from mobilevd.svd import base as bases

    return recipe if told["base"]["sha256"] == bases.load(recipe.base).digest else None
