"""Gates: what is good enough passes, and everything that was not shown fails with its own reason."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from mobilevd.evaluation.gates import Champion, Origin, judge
from mobilevd.settings import Gate

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


FVD = {"student.fvd": 100.0, "student.fvd_low": 90.0, "student.fvd_high": 120.0, "evaluate.clips": 16.0}
ON_INTERVAL = Gate(metric="student.fvd", max=130.0, by="interval")
PROTOCOL = {"real": "a", "fps": 7.0}


@pytest.mark.parametrize(
    ("changes", "reference", "limit", "passes"),
    [
        ({"max_worse": 10.0}, 90.0, 100.0, True),
        ({"max_worse": 9.0}, 90.0, 99.0, False),
        ({"max_worse_percent": 25.0}, 80.0, 100.0, True),
        ({"max_worse_percent": 24.0}, 80.0, 99.2, False),
        ({"min_better": 10.0}, 110.0, 100.0, True),
        ({"min_better": 11.0}, 110.0, 99.0, False),
        ({"min_better_percent": 20.0}, 125.0, 100.0, True),
        ({"min_better_percent": 21.0}, 125.0, 98.75, False),
        ({"max_worse": 10.0, "better": "higher"}, 110.0, 100.0, True),
        ({"max_worse": 9.0, "better": "higher"}, 110.0, 101.0, False),
        ({"min_better_percent": 25.0, "better": "higher"}, 80.0, 100.0, True),
        ({"min_better": 21.0, "better": "higher"}, 80.0, 101.0, False),
    ],
)
def test_degradation_and_improvement_are_held_against_teacher_and_champion(changes, reference, limit, passes):
    name = "sharpness" if "better" in changes else "fvd"
    run = {f"student.{name}": 100.0, f"teacher.{name}": reference}
    for of, champion in (("teacher", None), ("champion", Champion({f"student.{name}": reference}))):
        [row] = judge([Gate(metric=f"student.{name}", of=of, **changes)], run, champion).rows
        assert (row.passed, row.limit) == (passes, pytest.approx(limit))
        assert of in row.relation


@pytest.mark.parametrize(
    ("gate", "status", "clips"),
    [
        (Gate(metric="student.fvd", max=120.0, by="interval"), "pass", None),
        (Gate(metric="student.fvd", max=89.0, by="interval"), "fail", None),
        (Gate(metric="student.fvd", max=110.0, by="interval"), "undecided", 64),
        (Gate(metric="student.fvd", max=95.0, by="interval"), "undecided", 64),
        (Gate(metric="student.fvd", min=90.0, by="interval"), "pass", None),
        (Gate(metric="student.fvd", min=95.0, by="interval"), "undecided", 64),
        (Gate(metric="student.fvd", max=100.0, by="interval"), "undecided", None),
        (Gate(metric="student.fvd", max=110.0), "pass", None),
    ],
)
def test_interval_passes_fails_or_is_undecided_with_the_clips_that_would_decide(gate, status, clips):
    row = only(gate, FVD)
    assert (row.status, row.passed, row.clips) == (status, status == "pass", clips)
    assert ("would decide" in row.reason) == (status == "undecided")


def test_interval_of_the_reference_counts_as_well():
    gate = Gate(metric="student.fvd", max_worse=20.0, of="champion", by="interval")
    champion = {"student.fvd": 90.0, "student.fvd_low": 80.0, "student.fvd_high": 105.0}
    [row] = judge([gate], FVD, Champion(champion)).rows
    assert (row.status, row.limit, row.clips) == ("undecided", 110.0, 144)
    sure = champion | {"student.fvd_low": 100.0, "student.fvd": 101.0}
    assert judge([gate], FVD, Champion(sure)).passed


@pytest.mark.parametrize("missing", ["student.fvd_low", "student.fvd_high"])
def test_gate_on_an_interval_that_is_not_there_is_refused(missing):
    row = only(ON_INTERVAL, {k: v for k, v in FVD.items() if k != missing})
    assert (row.status, row.passed) == ("fail", False)
    assert "has no interval" in row.reason


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        (Origin(judged={"funnel": "x"}, shipped={"funnel": "y"}), "another artifact of funnel"),
        (Origin(measured_at=1000.0, made_at=1060.0), "is stale: measured 60 s before"),
    ],
)
def test_figure_of_other_or_newer_weights_is_refused(origin, said):
    [row] = judge([AT_MOST], {"student.fvd": 1.0}, origins={"student.fvd": origin}).rows
    assert not row.passed
    assert said in row.reason
    assert "measure it again" in row.reason


def test_figure_of_the_weights_that_ship_measured_after_them_passes():
    good = Origin({"funnel": "x", "prepare": "p"}, {"funnel": "x"}, measured_at=1060.0, made_at=1000.0)
    assert judge([AT_MOST], {"student.fvd": 1.0}, origins={"student.fvd": good}).passed


@pytest.mark.parametrize(
    ("mine", "its", "said"),
    [
        (
            Origin(fingerprint=PROTOCOL),
            Origin(fingerprint=PROTOCOL | {"fps": 25.0}),
            "another protocol, which differs in fps",
        ),
        (Origin(fingerprint=PROTOCOL), Origin(), "differs in fps, real"),
        (Origin(device="x86"), Origin(device="arm"), "measured on arm, this one on x86"),
    ],
)
def test_champion_of_another_protocol_or_device_class_is_refused(mine, its, said):
    gate = Gate(metric="student.fvd", max_worse=1.0, of="champion")
    champion = Champion({"student.fvd": 100.0}, {"student.fvd": its})
    [row] = judge([gate], FVD, champion, {"student.fvd": mine}).rows
    assert not row.passed
    assert said in row.reason
    same = Champion({"student.fvd": 100.0}, {"student.fvd": mine})
    assert judge([gate], FVD, same, {"student.fvd": mine}).passed


def test_gate_against_the_champion_needs_one_or_the_word_that_there_is_none():
    gate = Gate(metric="student.fvd", max_worse=1.0, of="champion")
    [row] = judge([gate], FVD).rows
    assert not row.passed
    assert "no champion was given" in row.reason
    [row] = judge([gate], FVD, Champion(none_yet=True)).rows
    assert (row.passed, row.reason) == (True, "there is no champion yet")
    assert not judge([gate], {"student.fvd": float("nan")}, Champion(none_yet=True)).passed
    assert not judge([gate], FVD, Champion()).passed


def test_a_difference_of_distances_may_be_negative():
    assert only(Gate(metric="student.fvd_minus_teacher", max=0.0), {"student.fvd_minus_teacher": -3.0}).passed


MINE = Origin(fingerprint={"fps": 7.0}, device="phone")
REFUSALS = {
    "missing": ({}, {}, "was not measured", "correct the gate's name or add the stage"),
    "NaN": ({"student.fvd": float("nan")}, {}, "is NaN", "look at the samples"),
    "infinite": ({"student.fvd": float("inf")}, {}, "is infinite", "look at the stage"),
    "negative FVD": ({"student.fvd": -1.0}, {}, "cannot be negative", "compute it anew"),
    "a string": ({"student.fvd": "low"}, {}, "is not a number but 'low'", "must give one figure"),
    "stale": ({"student.fvd": 1.0}, {"measured_at": 1.0, "made_at": 90.0}, "is stale", "measure it again"),
    "other artifact": (
        {"student.fvd": 1.0},
        {"judged": {"funnel": "a"}, "shipped": {"funnel": "b"}},
        "another artifact of funnel",
        "measure it again",
    ),
    "other fingerprint": ({"student.fvd": 1.0}, {"fingerprint": {"fps": 25.0}}, "differs in fps", "under one protocol"),
    "other device class": ({"student.fvd": 1.0}, {"device": "host"}, "was measured on phone", "one class of device"),
    "no champion": ({"student.fvd": 1.0}, None, "no champion was given", "judge again with the champion's report"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_every_refusal_has_a_reason_of_its_own_and_says_what_to_do(name):
    figures, origin, reason, remedy = REFUSALS[name]
    gate = Gate(metric="student.fvd", max_worse=1.0, of="champion")
    champion = None if origin is None else Champion({"student.fvd": 2.0}, {"student.fvd": MINE})
    mine = replace(MINE, **(origin or {}))
    [row] = judge([gate], figures, champion, {"student.fvd": mine}).rows
    assert (row.passed, row.status) == (False, "fail")
    told = row.reason.split("; ")
    assert any(reason in part for part in told), told
    assert any(remedy in part for part in told), told
    others = {said for other, (_, _, said, _) in REFUSALS.items() if other != name}
    assert not any(said in row.reason for said in others)


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        (Origin(kind="phone"), None),
        (Origin(kind="emulator"), "measured on a device of class emulator, but the gate accepts class phone only"),
        (Origin(), "measured where nothing says on what"),
        (None, "measured where nothing says on what"),
    ],
)
def test_a_gate_takes_the_class_of_device_that_it_names(origin, said):
    gate = Gate(metric="profile.adb.p50_ms", max=10.0, measured_on="phone")
    [row] = judge([gate], {gate.metric: 5.0}, origins={gate.metric: origin} if origin else {}).rows
    assert row.passed == (said is None)
    assert (said or "") in row.reason
    assert judge([gate.model_copy(update={"measured_on": None})], {gate.metric: 5.0}).passed
    [row] = judge([gate], {}).rows
    assert "nothing says" not in row.reason


def test_only_a_devices_figure_has_a_class():
    with pytest.raises(ValueError, match="measured_on is for figures of a device"):
        Gate(metric="student.fvd", max=10.0, measured_on="phone")


def test_the_same_figure_without_a_fault_passes():
    gate = Gate(metric="student.fvd", max_worse=1.0, of="champion")
    champion = Champion({"student.fvd": 2.0}, {"student.fvd": MINE})
    assert judge([gate], {"student.fvd": 1.0}, champion, {"student.fvd": MINE}).passed


def test_no_gates_are_refused_with_what_to_do():
    [row] = judge([], {"student.fvd": 1.0}).rows
    assert "no gate was given" in row.reason
    assert "add gates to the recipe" in row.reason
