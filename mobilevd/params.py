"""The only reader of a recipe: YAML in, frozen typed sections out; every mistake is found before any step runs.

``from: recipes/mobilevd.yaml`` starts from another recipe, by its path in the project, and overrides single keys.
Keeps: an unknown key, a wrong type or an impossible size is an error that says what, got, allowed and where
(``tests/test_params.py``).
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from mobilevd import keys
from mobilevd.device_settings import Profile, Quantize
from mobilevd.errors import RecipeError
from mobilevd.operations import Machines, Retrain
from mobilevd.packages import project_root
from mobilevd.section import Section
from mobilevd.settings import (
    Clip,
    Distill,
    Evaluate,
    Finetune,
    Funnel,
    Gate,
    Prepare,
    Prune,
    Registry,
    Training,
)

FROM = "from"
PREVIOUS, HEADS = {"prune": "distill", "funnel": "prune"}, "heads"  # of the adversarial stages, and what they hand on
OPERATIONS = ("retrain", "machines")  # sections that say when and where to run, not what
HOW = ("shard", "gradient_checkpointing", "workers")  # keys of training that say how a machine computes the same
TELLING = {"training": {"resume"}, "registry": {"live"}, "profile": {"phone": {"timeout_minutes"}}}  # and keys


class Recipe(Section):
    """Everything one run depends on besides its data and code."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    base: str = "pocket"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    clip: Clip = Clip()
    prepare: Prepare = Prepare()
    training: Training = Training()
    finetune: Finetune
    distill: Distill
    prune: Prune
    funnel: Funnel
    quantize: Quantize = Quantize()
    profile: Profile = Profile()
    evaluate: Evaluate = Evaluate()
    gates: Annotated[tuple[Gate, ...], Field(min_length=1)]
    registry: Registry = Registry()
    retrain: Retrain = Retrain()
    machines: Machines = Machines()

    @model_validator(mode="after")
    def _service_takes_one_width(self) -> "Recipe":
        if self.quantize.activations == "mixed" and self.profile.phone.quantize == "there":
            raise ValueError("quantize.activations: mixed needs profile.phone.quantize: here")
        return self

    @model_validator(mode="after")
    def _heads_fit(self) -> "Recipe":
        if self.distill.adversarial.heads_from != "new":
            raise ValueError("distill.adversarial.heads_from: previous, but no stage with heads comes before distill")
        for stage, giver in self.handed_on().items():
            mine, its = getattr(self, stage).adversarial, getattr(self, giver).adversarial
            if (mine.heads, mine.head_channels) != (its.heads, its.head_channels):
                raise ValueError(f"{stage}.adversarial.heads_from: previous needs heads and head_channels of {giver}")
        return self

    @model_validator(mode="after")
    def _trained_where_it_starts(self) -> "Recipe":
        start = self.distill.start_sigma
        levels = {stage: getattr(self, stage).adversarial.sigmas for stage in ("distill", *PREVIOUS)}
        lacking = [f"{stage}.adversarial.sigmas" for stage, sigmas in levels.items() if start not in sigmas]
        if lacking:
            what = f"{', '.join(lacking)}: without {start:g}, where the one evaluation starts"
            raise ValueError(f"{what} (distill.still_start.sigma; 700 when it is not given); allowed: with it")
        return self

    def handed_on(self) -> dict[str, str]:
        """Stage → the stage before it, with whose heads it goes on."""
        return {s: giver for s, giver in PREVIOUS.items() if getattr(self, s).adversarial.heads_from == "previous"}

    def what(self) -> dict[str, Any]:
        """Every value that changes what a run makes, defaults included, section by section.

        ``HOW`` counts as its defaults: a training may go on, and a stage be used again, where memory is cut otherwise.
        """
        values = self.model_dump(mode="json", exclude=dict.fromkeys(OPERATIONS, True) | TELLING)
        values["training"] |= {key: Training.model_fields[key].default for key in HOW}
        return values

    @property
    def digest(self) -> str:
        """sha256 over the canonical JSON of ``what``."""
        return hashlib.sha256(json.dumps(self.what(), sort_keys=True).encode()).hexdigest()


class _Gates(Section):
    gates: tuple[Gate, ...]


def load(path: str | Path) -> Recipe:
    """Read and check the recipe at ``path``. Errors: RecipeError naming key, value, what is allowed and the file."""
    return check(_read(Path(path), "the recipe that was named"), str(path))


def gates(path: str | Path) -> tuple[Gate, ...]:
    """The gates of a recipe, or of a file that has nothing but ``gates:``; there may be none. Errors: as ``load``."""
    values = {"gates": _read(Path(path), "--gates FILE").get("gates") or []}
    try:
        return _Gates.model_validate_json(json.dumps(values, default=str)).gates
    except ValidationError as error:
        raise RecipeError(_headline(error), where=str(path)) from None


def parse(text: str, where: str = "--config recipe") -> dict[str, Any]:
    """The checked recipe as a plain dictionary, defaults filled in; ``where`` the text is from. Errors: as ``load``."""
    return check(_mapping(text, where), where).model_dump(mode="json")


def check(values: dict[str, Any], where: str = "recipe") -> Recipe:
    """Turn plain values into a Recipe. Errors: RecipeError with one entry per mistake, all of them at once."""
    try:
        return Recipe.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise RecipeError(_headline(error), where=where) from None


def _read(path: Path, where: str) -> dict[str, Any]:
    if not path.is_file():
        what = "The recipe is a folder" if path.is_dir() else "The recipe does not exist"
        raise RecipeError(what, got=str(path), allowed="a YAML file", where=where)
    return _mapping(path.read_bytes(), str(path), (path.resolve(),))


def _mapping(text: str | bytes, where: str, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The values of a recipe's text, laid over those of the recipe that it is ``from``; ``above``: who asked for it."""
    try:
        values = keys.load(text, where)
    except yaml.YAMLError as error:
        raise RecipeError("The recipe is not YAML", got=str(error), allowed="YAML", where=where) from None
    if not isinstance(values, dict):
        raise RecipeError("The recipe is not a mapping", got=values, allowed="sections as in params.yaml", where=where)
    if FROM not in values:
        return values
    start = _start(values.pop(FROM), where, above)
    if "name" not in values:
        raise RecipeError("A recipe that starts from another needs its own name", allowed="name: ...", where=where)
    return _laid_over(_mapping(start.read_bytes(), str(start), (*above, start)), values)


def _start(named: Any, where: str, above: tuple[Path, ...]) -> Path:
    path = (project_root() / named).resolve() if isinstance(named, str) else None
    if path is None or not path.is_file():
        allowed = f"a recipe's path in {project_root()}, or an absolute one"
        raise RecipeError("The recipe to start from does not exist", got=named, allowed=allowed, where=where)
    if path in above:
        chain = " → ".join(map(str, (*above, path)))
        raise RecipeError("Recipes start from each other in a circle", got=chain, allowed="an end", where=where)
    return path


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Sections are merged key by key; any other value, a list too, replaces the one below."""
    both = {key for key in below.keys() & above.keys() if isinstance(below[key], dict) and isinstance(above[key], dict)}
    return {**below, **above, **{key: _laid_over(below[key], above[key]) for key in both}}


def _headline(error: ValidationError) -> str:
    lines = ["The recipe cannot be run"]
    for item in _innermost(error.errors()):
        key = ".".join(str(part) for part in item["loc"])
        if not key:  # of sections that do not go together: what it got is the whole recipe
            lines.append(f"  {item['msg'].removeprefix('Value error, ')}")
        elif item["type"] == "extra_forbidden":
            lines.append(f"  {key}: unknown key, got {item['input']!r}; allowed here: {_keys_at(item['loc'][:-1])}")
        elif item["type"] == "missing":
            lines.append(f"  {key}: missing; it has no default")
        else:
            lines.append(f"  {key}: got {item['input']!r}; allowed: {item['msg'][0].lower()}{item['msg'][1:]}")
            lines[-1] += _read_as_text(item)
    return "\n".join(lines)


def _innermost(items: list[Any]) -> list[Any]:
    """Without what is said of a section or list for a mistake inside of it: that it is one too short, say."""
    places = [item["loc"] for item in items]
    inside = {place[:depth] for place in places for depth in range(len(place))}
    return [item for item in items if item["loc"] not in inside]


def _read_as_text(item: Any) -> str:
    """What to write for a number that YAML takes for text, such as 1e-5."""
    kind = {"float_type": float, "int_type": int}.get(item["type"])
    try:
        number = kind(item["input"]) if kind and isinstance(item["input"], str) else None
    except ValueError:
        return ""
    return "" if number is None else f" (YAML reads it as text; write {yaml.safe_dump(number).split()[0]})"


def _keys_at(location: tuple) -> str:
    model: Any = Recipe
    for part in location:
        if isinstance(part, int):
            continue
        model = model.model_fields[part].annotation
        model = next((a for a in getattr(model, "__args__", ()) if _is_section(a)), model)
    return ", ".join(model.model_fields) if _is_section(model) else "no keys"


def _is_section(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, Section)
