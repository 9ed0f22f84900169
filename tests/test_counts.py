"""The paper's tables by count: the ladder and the ablations, as commands and documents show them.

In one file, one after the other: a process counts each network once.
"""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mobilevd import cli
from mobilevd.evaluation.ablations import ABLATIONS
from mobilevd.evaluation.cost import LADDER

ROOT = Path(__file__).resolve().parents[1]


def printed(*options: str) -> str:
    return CliRunner().invoke(cli.app, ["cost", *options], catch_exceptions=False).stdout


@pytest.mark.slow
def test_every_rung_is_within_two_percent_of_the_paper_and_hd_within_seven():
    assert [rung.paper_tflops for rung in LADDER] == [45.43, 23.63, 8.60, 8.60, 8.24, 8.24, 5.42, 4.64, 4.34]
    for rung in LADDER:
        assert abs(rung.cost.tflops / rung.paper_tflops - 1.0) < (0.07 if "HD" in rung.row else 0.02), rung
    costs = {rung.row: (rung.cost.tflops, rung.cost.params_m) for rung in LADDER}
    assert costs["SVD 512x256"] == (pytest.approx(8.459, abs=5e-4), pytest.approx(1524.6, abs=0.05))
    assert costs["+ low-resolution finetuning"] == costs["SVD 512x256"]
    assert costs["+ adversarial finetuning"] == costs["+ optimized cross-attention"]
    assert costs["+ optimized cross-attention"] == (pytest.approx(8.077, abs=5e-4), pytest.approx(1474.2, abs=0.05))
    assert costs["+ temporal block pruning"] == (pytest.approx(4.655, abs=5e-4), pytest.approx(1005.1, abs=0.05))


@pytest.mark.slow
def test_cost_of_the_ladder_is_the_papers_with_fifty_evaluations_before_distillation_and_one_after():
    rows = json.loads(printed("--ladder", "--json"))
    assert {tuple(row) for row in rows} == {("row", "size", "nfe", "paper_tflops", "tflops", "params_m")}
    assert [(row["size"], row["nfe"], row["paper_tflops"]) for row in rows] == [
        ("1024x576", 50, 45.43),
        ("1024x576", 1, 23.63),
        ("512x256", 50, 8.60),
        ("512x256", 50, 8.60),
        ("512x256", 50, 8.24),
        ("512x256", 1, 8.24),
        ("512x256", 1, 5.42),
        ("512x256", 1, 4.64),
        ("512x256", 1, 4.34),
    ]
    for row in rows:
        assert abs(row["tflops"] / row["paper_tflops"] - 1) < (0.07 if "HD" in row["row"] else 0.02)
    for row, more in zip(rows, json.loads(printed("--ladder", "--json", "--split")), strict=True):
        split = more.pop("split")
        assert more == row
        assert sum(part["flops"] for part in split.values()) / 1e12 == row["tflops"]
        assert sum(part["params"] for part in split.values()) / 1e6 == row["params_m"]


@pytest.mark.slow
def test_cost_of_the_ladder_with_encoders_is_more_for_a_clip_and_the_same_for_an_evaluation():
    plain, whole = (json.loads(printed("--ladder", "--json", *more)) for more in ((), ("--with-encoders",)))
    for row, more in zip(plain, whole, strict=True):
        assert more["tflops"] == row["tflops"]
        added = [value for key, value in more.items() if key.endswith(", tflops")]
        assert len(added) == 3
        assert more["clip_tflops"] == pytest.approx(row["nfe"] * row["tflops"] + sum(added))


@pytest.mark.slow
def test_every_count_is_the_papers_within_its_tolerance():
    misses = {(a.table, a.row): a.miss for a in ABLATIONS if a.paper_tflops is not None}
    assert len(misses) >= 14
    for item in ABLATIONS:
        assert item.paper_tflops is None or abs(item.miss) <= item.tolerance, (item.row, item.miss)
    assert [a.row for a in ABLATIONS if a.tolerance > 0.02] == ["spatial"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("document", "what", "measured"),
    [("README.md", "--ladder", True), ("docs/paper_map.md", "--ablations", False)],
)
def test_table_of_a_document_is_what_the_command_prints(document, what, measured):
    """But for the README's last column, which ``benchmarks/ladder.py`` measures."""
    text = (ROOT / document).read_text(encoding="utf-8")
    assert f"`mobilevd cost {what} --markdown`" in text
    text = re.sub(r"(?m)^(\|.*\|)[^|\n]*\|$", r"\1", text) if measured else text
    table = printed(what, "--markdown").strip()
    assert table.startswith("| ")
    assert f"\n\n{table}\n\n" in text
