"""The contract with adb and ONNX Runtime's tool, on a stand-in for both that runs the graph on this CPU."""

from concurrent.futures import ThreadPoolExecutor

import android
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilevd.device import adb, plugged, quiet
from mobilevd.device.adb import Phone, installed
from mobilevd.device.targets import find
from mobilevd.errors import EffectError, MobileVDError

TWO = {"8a1c": "device", "77fe": "device"}


@pytest.fixture
def handset(tmp_path, monkeypatch):
    made = android.Android(tmp_path / "android")
    made.plug(monkeypatch)
    return made


@pytest.fixture
def graph(tmp_path):
    """Two layers with the names that the exporter gives, and their weights in a file beside the graph."""
    weight = numpy_helper.from_array(np.ones((4, 4, 3, 3), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="unet.conv_in/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Softmax", ["h"], ["y"], name="unet.mid_block.attentions.0/Softmax"),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4, 8, 8]) for name in "xy")
    made, opset = helper.make_graph(nodes, "g", [x], [y], [weight]), [helper.make_opsetid("", 18)]
    aside = {"save_as_external_data": True, "location": "g.onnx.data", "size_threshold": 0}
    onnx.save(helper.make_model(made, opset_imports=opset, ir_version=9), tmp_path / "g.onnx", **aside)
    return tmp_path / "g.onnx"


def measured(handset, graph, name="adb", sustain_s=1.0):
    """The stand-in has no NPU: what it is asked to run there is left to its CPU."""
    task = plugged.Task(graph, {"x": np.ones((2, 4, 8, 8), np.float32)}, "qnn", 5, sustain_s)
    return plugged.measure(Phone(name[4:]), find(name), task, handset.runner)


def test_a_phone_is_timed_in_the_schema_of_every_other_and_nothing_stays_there(handset, graph, monkeypatch):
    counted, operators_of = [], plugged.profile.operators_of
    monkeypatch.setattr(plugged.profile, "operators_of", lambda e, runs: counted.append(runs) or operators_of(e, runs))
    report = measured(handset, graph)
    values = {name: figure.value for name, figure in report.figures.items()}
    assert (values["min_ms"], values["p50_ms"]) == pytest.approx((2.0, 6.0))
    assert not values.keys() & {"p90_ms", "p99_ms"}  # of five runs there is none
    assert counted == [plugged.TRACED_RUNS + 1]
    assert values["cold_start_ms"] > 0 < values["warm_start_ms"]
    assert values["peak_memory_mb"] == 50.0
    assert values["sustained_ratio"] > 1
    assert (report.target, report.kind) == ("adb", "phone")
    assert report.device == {"processor": "SM8650", "system": "23116PN5BC, Android 14"}
    assert "5 timed" in report.protocol["runs"]
    assert report.blocks.keys() >= {"conv_in", "mid_block"}
    assert "CPUExecutionProvider: unet.mid_block.attentions.0/Softmax (Softmax)" in report.off_npu
    asked = [line for line in handset.asked if plugged.TOOL in line and line.startswith("shell env")]
    assert all("-e qnn -i 'backend_path|libQnnHtp.so" in line for line in asked)
    assert "-r 5" in asked[0]
    assert [word for line in asked for word in line.split() if word in ("times", "duration")] == ["times"] * 2 + [
        "duration"
    ]
    assert handset.left == []


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        ({}, "No phone can be used\n  got:     none"),
        ({"8a1c": "unauthorized"}, "answer the question that the phone shows"),
        ({"8a1c": "offline"}, "adb reconnect"),
        ({"8a1c": "no permissions (verify udev rules); see [developer.android.com]"}, "udev"),
        (TWO, "More than one phone is plugged in\n  got:     8a1c, 77fe\n  allowed: one of them: adb:8a1c"),
    ],
)
def test_a_phone_that_cannot_be_meant_is_refused_with_what_mends_it(handset, devices, said):
    handset.set(devices)
    with pytest.raises(MobileVDError) as error:
        Phone()
    assert said in str(error.value)
    assert handset.asked == []


def test_one_of_two_is_chosen_by_its_serial_or_the_environments(handset, monkeypatch):
    handset.set(TWO)
    assert Phone("77fe").serial == "77fe"
    monkeypatch.setenv("ANDROID_SERIAL", "8a1c")
    assert Phone().serial == "8a1c"
    with pytest.raises(MobileVDError, match="The phone 1234 cannot be used") as error:
        Phone("1234")
    assert "8a1c (device), 77fe (device)" in str(error.value)


def test_two_names_of_one_phone_are_measured_one_after_the_other(handset, graph, taken, monkeypatch):
    told, names = [], ("adb", "adb:8a1c")
    monkeypatch.setattr(quiet, "say", told.append)
    with ThreadPoolExecutor(2) as both:
        reports = list(both.map(lambda name: measured(handset, graph, name, sustain_s=0.0), names))
    assert [report.target for report in reports] == list(names)
    assert [report.figures["p50_ms"].value for report in reports] == pytest.approx([6.0, 6.0])
    commands = [line.split()[1] for line in handset.asked if line.startswith(("shell rm -rf", "shell mkdir"))]
    assert commands == ["rm", "mkdir", "rm"] * 2
    [line] = told
    assert "waits until another measurement on the phone 8a1c ends" in line


def test_the_servers_own_talk_and_odd_lines_are_no_phones(handset):
    script = handset.folder / "bin" / "adb"
    talk = "* daemon not running; starting now at tcp:5037\\nodd\\n\\tdevice\\n77fe\\t\\n"
    begin = 'print("List of devices attached")'
    script.write_text(script.read_text().replace(begin, f'print("{talk}")\n    {begin}'))
    assert adb._listed() == {"8a1c": "device"}
    handset.set({"(no serial number)": "no permissions; see [developer.android.com]"})
    with pytest.raises(MobileVDError, match="udev"):
        Phone()


def test_an_adb_that_hangs_is_given_up_with_what_mends_it(handset, monkeypatch):
    (handset.folder / "bin" / "adb").write_text("#!/bin/sh\nexec sleep 20\n")
    monkeypatch.setattr(adb, "SHORT_S", 0.2)
    with pytest.raises(MobileVDError, match="adb does not answer") as error:
        Phone()
    assert "adb kill-server" in str(error.value)


def test_an_androids_emulator_is_no_phone(handset):
    handset.set({"emulator-5554": "device"}, **{"ro.boot.qemu": "1"})
    with pytest.raises(MobileVDError, match="an emulator of a phone"):
        Phone()


def test_a_phone_that_is_lost_in_the_middle_is_an_error_and_the_next_time_starts_clean(handset, graph):
    handset.set(lost_after=10)
    with pytest.raises(EffectError, match="unplugged") as error:
        measured(handset, graph)
    assert "device '8a1c' not found" in str(error.value)
    [before] = handset.left
    (before / "old").touch()
    handset.set()
    with plugged._folder(Phone()):
        assert [path.name for path in before.iterdir()] == ["test_data_set_0"]
    assert handset.left == []


def test_a_tool_that_fails_there_says_why_and_nothing_stays(handset, graph):
    graph.write_bytes(b"no graph")
    with pytest.raises(EffectError, match=r"(?i)protobuf|invalid"):
        measured(handset, graph)
    assert handset.left == []


def test_a_phone_that_does_not_answer_is_given_up(handset):
    phone = Phone(timeout_s=0.2)
    with pytest.raises(EffectError, match="did not answer"):
        phone.shell("sleep", "5")


def test_without_adb_or_with_an_empty_runner_it_is_said(handset, monkeypatch, tmp_path):
    assert installed()
    monkeypatch.setenv("MOBILEVD_ANDROID_RUNNER", str(tmp_path))
    with pytest.raises(MobileVDError, match="runner for Android is not there"):
        plugged.runner()
    monkeypatch.delenv("MOBILEVD_ANDROID_RUNNER")
    assert plugged.runner() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not installed()


def test_targets_by_serial_are_phones_and_an_empty_serial_is_none():
    assert (find("adb").kind, find("adb:8a1c").kind, find("adb:8a1c").name) == ("phone", "phone", "adb:8a1c")
    for name in ("adb:", "adb: ", "adbx"):
        with pytest.raises(MobileVDError, match="Unknown device"):
            find(name)
