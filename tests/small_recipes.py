"""The smallest recipe as plain values, one value put in it, and what a refused one is told."""

import copy

import pytest

from mobilevd import params
from mobilevd.errors import RecipeError

OPTIM = {"lr": 1.0e-4}
ADVERSARIAL = {"steps": 2, "generator": OPTIM, "discriminator": OPTIM}


def smallest() -> dict:
    """Only what has no default."""
    return {
        "name": "small",
        "finetune": {"steps": 2, "optim": copy.deepcopy(OPTIM)},
        "distill": {"adversarial": copy.deepcopy(ADVERSARIAL)},
        "prune": {"keep": 7, "adversarial": copy.deepcopy(ADVERSARIAL)},
        "funnel": {"adversarial": copy.deepcopy(ADVERSARIAL)},
        "gates": [{"metric": "student.fvd", "max": 1.0}],
    }


def put(values: dict, path: str, value) -> dict:
    *parents, last = path.split(".")
    node = values
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    node[last] = value
    return values


def refusal(values: dict, where: str = "recipe") -> str:
    with pytest.raises(RecipeError) as error:
        params.check(values, where)
    return str(error.value)
