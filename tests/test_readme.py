"""The tables in the documents are what the commands beside them print."""

import re
from pathlib import Path

from mobilevd.evaluation.cost import LADDER

ROOT = Path(__file__).resolve().parents[1]


def test_every_file_and_test_that_the_ladder_names_is_there():
    for rung in LADDER:
        assert (ROOT / rung.file).is_file()
        assert (ROOT / rung.test).is_file()


def test_every_file_that_the_paper_map_names_is_there():
    words = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8").split("`")[1::2]
    named = [word for word in words if word.startswith(("mobilevd/", "tests/", "recipes/"))]
    assert len(named) > 30
    assert [word for word in named if not (ROOT / word).is_file()] == []


def test_every_equation_of_the_paper_map_is_numbered_in_its_file():
    lines = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8").split("## Equations")[1].split("## ")[0]
    rows = dict(re.findall(r"^\| `(mobilevd/method/\S+)` \| (.*) \|$", lines, re.MULTILINE))
    assert len(rows) == 11
    for file, told in rows.items():
        numbers = re.findall(r"\(\d\)", told)
        found = re.findall(r"^ +(?:\"\"\")?(\(\d\)) ", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
        assert numbers == [f"({n})" for n in range(1, len(numbers) + 1)]
        assert sorted(found) == numbers, file
