"""The gate stage: figures merged without losing any, verdict written down, never an exception for a bad model."""

import json

import pytest

from mobilevd.artifacts import StageRecord, verify
from mobilevd.errors import IntegrityError
from mobilevd.params import Recipe, check
from mobilevd.stages import gate

OPTIM = {"lr": 1.0e-4}
ADVERSARIAL = {"steps": 1, "generator": OPTIM, "discriminator": OPTIM}


def recipe(*gates: dict) -> Recipe:
    return check(
        {
            "name": "tiny",
            "finetune": {"steps": 1, "optim": OPTIM},
            "distill": {"adversarial": ADVERSARIAL},
            "prune": {"keep": 1, "adversarial": ADVERSARIAL},
            "funnel": {"adversarial": ADVERSARIAL},
            "gates": list(gates),
        }
    )


RECIPE = recipe(
    {"metric": "student.fvd", "max_ratio": 1.5, "of": "teacher.fvd", "why": "near its teacher"},
    {"metric": "prune.blocks", "max": 5.0},
)


def record(stage: str, figures: dict[str, float], **changes: str) -> StageRecord:
    values = {"recipe_digest": RECIPE.digest, "data_md5": "d" * 32, **changes}
    return StageRecord(stage=stage, figures=figures, **values)


def inputs(student: float = 280.0) -> dict[str, StageRecord]:
    return {
        "evaluate": record("evaluate", {"student.fvd": student, "teacher.fvd": 200.0}),
        "prune": record("prune", {"blocks": 5.0}),
    }


def test_a_good_run_passes_and_its_rows_are_written(tmp_path):
    made = gate.run(RECIPE, inputs(), tmp_path)
    assert made.facts == {"verdict": "passed"}
    assert made.figures == {"gates.passed": 2.0, "gates.failed": 0.0}
    assert made.data_md5 == "d" * 32
    folder = made.artifacts["gates"].path
    verify(folder, made.artifacts["gates"].sha256)
    written = json.loads((folder / "gates.json").read_text(encoding="utf-8"))
    assert written["verdict"] == "passed"
    assert written["rows"] == made.tables["gates"]
    assert written["rows"][0]["limit"] == 300.0


@pytest.mark.parametrize("student", [301.0, float("nan"), float("inf")])
def test_a_bad_run_is_rejected_without_an_error(tmp_path, student):
    made = gate.run(RECIPE, inputs(student), tmp_path)
    assert made.facts == {"verdict": "rejected"}
    assert [row["passed"] for row in made.tables["gates"]] == [False, True]
    text = (made.artifacts["gates"].path / "gates.json").read_text(encoding="utf-8")
    assert "NaN" not in text.replace("is NaN", "")
    assert "Infinity" not in text


def test_names_with_a_dot_are_kept_and_others_get_their_stage():
    merged = gate.merge({"a": record("prune", {"blocks": 1.0, "student.fvd": 2.0})})
    assert merged == {"prune.blocks": 1.0, "student.fvd": 2.0}


def test_a_figure_given_twice_is_refused(tmp_path):
    twice = {**inputs(), "again": record("evaluate", {"student.fvd": 1.0})}
    with pytest.raises(IntegrityError, match=r"student\.fvd from evaluate and again"):
        gate.run(RECIPE, twice, tmp_path)


def test_records_of_another_recipe_or_other_data_are_refused(tmp_path):
    for change, message in (({"recipe_digest": "x"}, "another recipe"), ({"data_md5": "e" * 32}, "different data")):
        mixed = {**inputs(), "profile": record("profile", {}, **change)}
        with pytest.raises(IntegrityError, match=message):
            gate.run(RECIPE, mixed, tmp_path)


def test_a_gate_without_records_is_refused(tmp_path):
    with pytest.raises(IntegrityError, match="no records"):
        gate.run(RECIPE, {}, tmp_path)
