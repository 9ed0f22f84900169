"""A key that stands twice in what people write is told with its lines, not replaced without a word."""

import pytest
import yaml

from mobilevd import keys, params
from mobilevd.errors import RecipeError

MERGED = """
first: &first {steps: 1, lr: {match: a}}
second: &second {<<: *first, steps: 2}
third: {<<: *second, steps: 3, more: [{steps: 4}, {steps: 4}]}
both: {<<: *first, <<: *second}
"""


@pytest.mark.parametrize("text", [MERGED, "", "- a\n- a", "1: a\n'1': b", "name: größe"])
def test_what_has_each_key_once_is_read_as_yaml_reads_it(text):
    assert keys.load(text, "here") == yaml.safe_load(text)
    assert keys.load(text.encode(), "here") == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gates: [1]\nname: x\ngates: [2]", "gates, in line 1 and again in line 3"),
        ("prune:\n  keep: 3\n  rank: x\n  'keep': 4", "keep, in line 2 and again in line 4"),
        ("- {a: 1, a: 1}", "a, in line 1 and again in line 1"),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_lines_and_file(text, told):
    with pytest.raises(RecipeError) as error:
        keys.load(text, "mine.yaml")
    assert str(error.value).splitlines() == [
        "A key is written twice",
        f"  got:     {told}",
        "  allowed: each key once",
        "  where:   mine.yaml",
    ]


def test_neither_a_recipe_nor_a_file_of_gates_loses_its_gates_to_a_second_key(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("gates: [{metric: a, max: 1.0}]\ngates: []\n", encoding="utf-8")
    for read in (params.load, params.gates, lambda path: params.parse(path.read_text())):
        with pytest.raises(RecipeError, match="gates, in line 1 and again in line 2"):
            read(path)
    (tmp_path / "own.yaml").write_text(f"from: {path}\nname: own\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"again in line 2(.|\n)*mine\.yaml"):
        params.load(tmp_path / "own.yaml")
