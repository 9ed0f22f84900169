"""Every ablation that the paper prints a count for is counted alike, and has the recipe that it names."""

from pathlib import Path

import pytest

from mobilevd import params
from mobilevd.evaluation.ablations import ABLATIONS

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "ablations"


@pytest.mark.parametrize("item", [a for a in ABLATIONS if a.recipe], ids=lambda item: item.recipe)
def test_named_recipe_is_there_under_its_own_name(item):
    assert params.load(RECIPES / f"{item.recipe}.yaml").name == item.recipe


def test_multiscaling_recipes_apply_what_their_row_counts():
    edits = {"temporal_multiscale", "spatial_multiscale"}
    for item in ABLATIONS:
        if item.table == "multiscaling":
            counted = {edit.__module__.rpartition(".")[2] for edit in item.edits} & edits
            assert set(params.load(RECIPES / f"{item.recipe}.yaml").distill.apply) == counted


def test_every_multiscaling_operator_has_a_recipe_that_differs_in_it_alone():
    for which, keys in {"temporal": ("temporal",), "spatial": ("spatial",), "both": ("temporal", "spatial")}.items():
        recipes = {
            down: params.load(RECIPES / f"multiscale-{which}-{down}.yaml") for down in ("max", "average", "stride")
        }
        for down, recipe in recipes.items():
            assert {getattr(recipe.distill, f"{key}_multiscale").down for key in keys} == {down}
            assert recipe.distill.apply == recipes["max"].distill.apply
            assert recipe.model_dump(exclude={"name", "distill"}) == recipes["max"].model_dump(
                exclude={"name", "distill"}
            )
