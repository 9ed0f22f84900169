"""Gates: what is good enough passes, and everything that was not shown fails with its own reason."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from mobilevd.evaluation.gates import judge
from mobilevd.params import Gate

AT_MOST = Gate(metric="student.fvd", max=150.0, why="the paper's FVD")
AT_LEAST = Gate(metric="quantize.sqnr_db", min=15.0)
RATIO = Gate(metric="student.fvd", max_ratio=1.5, of="teacher.fvd")
PHONE = Gate(metric="profile.Samsung Galaxy S24.p50_ms", max=1780.0)


def only(gate: Gate, figures: dict):
    verdict = judge([gate], figures)
    [row] = verdict.rows
    assert verdict.passed == row.passed
    return row


@pytest.mark.parametrize(
    ("gate", "figures", "limit"),
    [
        (AT_MOST, {"student.fvd": 150.0}, 150.0),
        (AT_LEAST, {"quantize.sqnr_db": 15}, 15.0),
        (RATIO, {"student.fvd": 300.0, "teacher.fvd": 200.0}, 300.0),
        (AT_MOST, {"student.fvd": np.float32(3)}, 150.0),
        (AT_MOST, {"student.fvd": 0.0}, 150.0),
    ],
)
def test_a_figure_at_its_limit_passes(gate, figures, limit):
    row = only(gate, figures)
    assert row.passed
    assert row.limit == limit


@pytest.mark.parametrize(
    ("gate", "figures", "said"),
    [
        (AT_MOST, {"student.fvd": 150.001}, "150.001 is above 150"),
        (AT_LEAST, {"quantize.sqnr_db": 14.9}, "14.9 is below 15"),
        (RATIO, {"student.fvd": 300.1, "teacher.fvd": 200.0}, "300.1 is above 300"),
    ],
)
def test_a_figure_past_its_limit_fails(gate, figures, said):
    row = only(gate, figures)
    assert not row.passed
    assert said in row.reason


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "is NaN"),
        (float("inf"), "is infinite"),
        (float("-inf"), "is infinite"),
        ("120", "not a number"),
        (None, "not a number"),
        (True, "not a number"),
        (np.float32("nan"), "is NaN"),
        (-0.5, "cannot be negative"),
    ],
)
def test_a_broken_figure_fails_with_its_own_reason(value, said):
    row = only(AT_MOST, {"student.fvd": value})
    assert not row.passed
    assert said in row.reason
    json.dumps(asdict(row), allow_nan=False)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ({}, "teacher.fvd was not measured"),
        ({"teacher.fvd": float("nan")}, "teacher.fvd is NaN"),
        ({"teacher.fvd": float("inf")}, "teacher.fvd is infinite"),
        ({"teacher.fvd": 0.0}, "needs a positive figure"),
        ({"teacher.fvd": -2.0}, "cannot be negative"),
    ],
)
def test_a_ratio_without_its_reference_fails_with_its_own_reason(reference, said):
    row = only(RATIO, {"student.fvd": 1.0, **reference})
    assert not row.passed
    assert row.limit is None
    assert "no limit without its reference" in row.reason
    assert said in row.reason


def test_a_missing_figure_fails_and_like_names_are_shown():
    row = only(AT_MOST, {"students.fvd": 1.0})
    assert not row.passed
    assert row.value is None
    assert "was not measured" in row.reason
    assert "students.fvd" in row.reason


def test_a_host_figure_never_satisfies_a_phones_gate():
    row = only(PHONE, {"profile.host-cpu.p50_ms": 1.0})
    assert not row.passed
    assert "says nothing about Samsung Galaxy S24" in row.reason
    assert only(PHONE, {"profile.Samsung Galaxy S24.p50_ms": 1.0}).passed


def test_a_phones_missing_figure_without_a_host_one_does_not_speak_of_the_host():
    assert "host" not in only(PHONE, {"student.fvd": 1.0}).reason


def test_a_host_gate_takes_the_host_figure():
    assert only(Gate(metric="profile.host-cpu.p50_ms", max=100.0), {"profile.host-cpu.p50_ms": 99.0}).passed


def test_a_negative_time_or_size_is_no_measurement():
    for metric in ("profile.host-cpu.p50_ms", "quantize.size_mb"):
        assert "cannot be negative" in only(Gate(metric=metric, max=5.0), {metric: -1.0}).reason


def test_a_negative_kernel_distance_is_allowed():
    assert only(Gate(metric="student.kvd", max=1.0), {"student.kvd": -0.01}).passed


def test_no_gates_pass_nothing():
    verdict = judge([], {"student.fvd": 1.0})
    assert not verdict.passed
    assert "no gate was given" in verdict.rows[0].reason


def test_one_failure_rejects_and_every_row_is_kept():
    verdict = judge([AT_MOST, AT_LEAST], {"student.fvd": 1.0, "quantize.sqnr_db": 1.0})
    assert not verdict.passed
    assert [row.passed for row in verdict.rows] == [True, False]
    assert verdict.rows[0].why == "the paper's FVD"
