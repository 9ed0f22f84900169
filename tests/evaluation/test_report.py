"""A report is read back as it was written, and is compared with its like only."""

import json
from pathlib import Path

import pytest
from test_fingerprint import ONE

from mobilevd.errors import IntegrityError
from mobilevd.evaluation import report
from mobilevd.evaluation.report import Figure

FIGURES = {"fvd": Figure(value=100.0, unit="", low=90.0, high=120.0), "motion_ratio": Figure(value=0.5, unit="")}


def test_report_is_read_back_as_it_was_written(tmp_path):
    made = report.make(ONE, FIGURES)
    made.save(tmp_path / "report.json")
    assert report.read(tmp_path / "report.json") == made
    assert "fingerprint" in report.Report.model_json_schema()["required"]


def test_schema_in_the_documents_is_the_reports():
    path = Path(__file__).resolve().parents[2] / "docs" / "report.schema.json"
    assert json.loads(path.read_text(encoding="utf-8")) == report.Report.model_json_schema()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"more": 1}, "more"),
        ({"figures": {"fvd": {"value": "high", "unit": ""}}}, "figures.fvd.value"),
        ({"fingerprint_sha256": "0"}, "was changed"),
    ],
)
def test_report_of_another_layout_or_edited_is_refused(tmp_path, change, said):
    path = tmp_path / "report.json"
    report.make(ONE, FIGURES).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(IntegrityError, match=said):
        report.read(path)


def test_missing_report_is_named(tmp_path):
    with pytest.raises(IntegrityError, match="no such report"):
        report.read(tmp_path / "report.json")


def test_reports_of_one_protocol_are_compared_and_of_another_refused():
    one, other = report.make(ONE, FIGURES), report.make(ONE, {"fvd": Figure(value=130.0, unit="")})
    assert report.against(one, other) == [{"figure": "fvd", "this": 100.0, "other": 130.0, "difference": -30.0}]
    foreign = report.make(ONE.model_copy(update={"resize": "sf-v", "fps": 25.0}), FIGURES)
    with pytest.raises(IntegrityError, match="different protocols: fps, resize"):
        report.against(one, foreign)


def test_few_clips_and_a_kernel_distance_that_may_be_none_are_noted():
    def notes(clips: int, low: float | None) -> list[str]:
        kvd = Figure(value=2.0, unit="", low=low, high=None if low is None else 9.0)
        return report.notes(report.make(ONE.model_copy(update={"clips": clips}), {"kvd": kvd}))

    few, near = notes(16, -1.0)
    assert "16 clips are few" in few
    assert "kvd: 0 lies in its interval" in near
    assert [len(notes(16, 1.0)), len(notes(256, -1.0)), len(notes(256, 1.0)), len(notes(256, None))] == [1, 1, 0, 0]
