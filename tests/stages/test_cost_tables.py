"""Tables of costs for people: of a terminal, 80 columns wide, without a word that is broken."""

import re

import pytest

from mobilevd.cli_table import show
from mobilevd.evaluation.ablations import ABLATIONS
from mobilevd.evaluation.cost import KINDS, LADDER
from mobilevd.stages import cost_tables

SPLIT = {kind: {"flops": 14_507_000_000_000, "params": 537_700_000} for kind in KINDS}
COUNTED = {"tflops": 22.6666, "params_m": 1524.6, "split": SPLIT}
AROUND = dict.fromkeys(
    ("image encoder, 1 photograph", "autoencoder, encode 1 photograph", "autoencoder, decode 14 frames"), 21.1777
)
LADDERS = [
    {"row": rung.row, "size": "1024x576", "nfe": rung.nfe, "paper_tflops": rung.paper_tflops, "clip_tflops": 1234.5678}
    | {"paper_fvd_7fps": rung.paper_fvd, "file": rung.file, "test": rung.test, **COUNTED}
    for rung in LADDER
]
AROUNDS = [row | {f"{name}, tflops": value for name, value in AROUND.items()} for row in LADDERS]
ABLATED = [
    {"table": item.table, "row": item.row, "recipe": f"recipes/ablations/{item.recipe}.yaml", "miss": -0.0123456}
    | {"paper_tflops": item.paper_tflops, "paper_fvd_25fps": item.paper_fvd, **COUNTED}
    for item in ABLATIONS
]
MODEL = [{"row": "network", "size": "1024x576", "latents": "14 x 4 x 72 x 128", **COUNTED}]
TABLES = {
    "ladder": cost_tables.table(LADDERS),
    "encoders": cost_tables.table(AROUNDS),
    "ablations": cost_tables.table(ABLATED),
    "model": cost_tables.table(MODEL),
    "split": cost_tables.split_table(LADDERS),
}


def cells(printed: str) -> list[list[str]]:
    return [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in printed.splitlines() if line[0] in "│┃"]


@pytest.mark.parametrize("name", TABLES)
def test_no_word_is_broken_and_no_heading_is_a_key_at_80_columns(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    show(TABLES[name], False)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "_" not in printed
    texts = [text for row in TABLES[name] for text in (*row, *row.values()) if isinstance(text, str)]
    seen = {word for line in cells(printed) for cell in line for word in cell.split()}
    assert {word for text in texts for word in text.split()} <= seen


def test_a_clips_table_names_the_encoders_and_an_evaluations_the_papers_figures():
    assert "image\nencoder" in TABLES["encoders"][0]
    assert "paper\nFVD" in TABLES["ladder"][0]
    assert TABLES["ladder"][0]["TFLOPs\na clip"] == 1234.5678


def test_an_ablations_recipe_stands_by_its_name():
    assert TABLES["ablations"][0]["recipes/ablations/"] == ABLATIONS[0].recipe


def test_a_split_has_a_line_for_each_kind_and_one_for_all():
    first = TABLES["split"][0]
    assert first["layers"].split("\n") == [*KINDS, "total"]
    assert first["TFLOPs"].split("\n") == [*["14.507"] * len(KINDS), "22.667"]
    assert first["M params"].split("\n") == [*["537.7"] * len(KINDS), "1524.6"]
