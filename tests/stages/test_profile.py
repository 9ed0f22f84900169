import json
from contextlib import contextmanager
from types import SimpleNamespace

import aihub
import android
import one_step
import pytest
import torch
from torch import nn

from mobilevd.artifacts import StageRecord, seal, verify
from mobilevd.device import hub
from mobilevd.device.export import export
from mobilevd.device.profile import ProfileReport
from mobilevd.errors import EffectError, IntegrityError, MobileVDError
from mobilevd.evaluation.gates import judge
from mobilevd.params import check
from mobilevd.settings import Gate
from mobilevd.stages import profile
from mobilevd.stages.figures import of_device

PHONE = "qai-hub:Samsung Galaxy S24"


class Small(nn.Module):
    """The one-step network's inputs and output around one convolution: profiling needs no more."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(one_step.CHANNELS, one_step.CHANNELS, 3, padding=1)

    def forward(self, noise, image_latents, token, ids):
        return self.conv(noise) + image_latents + token.mean() + ids.mean()


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    recipe, folder = one_step.recipe(), tmp_path_factory.mktemp("given")
    torch.manual_seed(0)
    for name in ("float.onnx", "quantized.onnx"):
        export(Small(), one_step.SPEC, folder / "onnx" / name, opset=20)
    one_step.SPEC.save(folder / "onnx")
    shared = {"recipe_digest": recipe.digest, "data_md5": "0" * 32}
    onnx = StageRecord(stage="quantize", artifacts={"onnx": seal(folder / "onnx")}, **shared)
    return {**one_step.records(recipe, folder), "quantize": onnx}


@pytest.fixture(scope="module")
def host(given, tmp_path_factory):
    work = tmp_path_factory.mktemp("profile")
    return work, profile.run(one_step.recipe(), given, work, device="host-cpu")


def test_host_figures_are_named_after_the_host_for_both_graphs(host):
    _, record = host
    for figure in ("p50_ms", "min_ms", "peak_memory_mb", "float_p50_ms", "cold_start_ms"):
        assert record.figures[f"profile.host-cpu.{figure}"] > 0
    assert record.figures.keys() == of_device(one_step.recipe().profile, "host-cpu")
    assert record.facts["device"] == "host-cpu (host; ONNX Runtime, CPU)"


def test_the_reports_are_sealed_and_follow_their_schema(host):
    _, record = host
    verify(record.artifacts["reports"].path, record.artifacts["reports"].sha256)
    report = ProfileReport.model_validate(json.loads((record.artifacts["reports"].path / "quantized.json").read_text()))
    assert report.figures["p50_ms"].value == record.figures["profile.host-cpu.p50_ms"]
    assert "4 timed" in report.protocol["runs"]


def test_the_card_gets_a_chart_and_the_operators(host):
    work, record = host
    assert (work / record.pictures["time by operator"]).stat().st_size > 5_000
    assert {row["kind"] for row in record.tables["operators"]} & {"Conv", "FusedConv"}


def test_the_base_may_be_timed_beside_it_block_by_block(given, tmp_path):
    recipe = one_step.recipe()
    recipe = recipe.model_copy(update={"profile": recipe.profile.model_copy(update={"base": True})})
    inputs = given | {"finetune": given["funnel"].model_copy(update={"stage": "finetune"})}
    record = profile.run(recipe, inputs, tmp_path / "new", device="host-cpu")
    assert record.figures["profile.host-cpu.base_p50_ms"] > 0
    assert record.figures.keys() == of_device(recipe.profile, "host-cpu")
    assert (tmp_path / "new" / record.pictures["time by block"]).stat().st_size > 5_000
    [middle] = [row for row in record.tables["blocks"] if row["part"] == "mid_block"]
    assert middle["base, ms"] > 0
    assert middle["float, ms"] is None  # the graphs of these tests are one convolution
    assert sorted(p.name for p in record.artifacts["reports"].path.glob("*.json")) == [
        "base.json",
        "float.json",
        "manifest.json",
        "quantized.json",
    ]


def test_a_phone_is_measured_where_there_is_a_token_which_stays_there(given, tmp_path, monkeypatch):
    service = aihub.AiHub()
    service.polls = 0
    monkeypatch.setenv("QAIHUB_CLIENT_INI", str(service.configure(tmp_path)))
    work = tmp_path / "work"
    record = profile.run(one_step.recipe(), given, work, device=PHONE)
    service.close()
    assert record.figures[f"profile.{PHONE}.p50_ms"] == 2.5
    assert record.figures.keys() == of_device(one_step.recipe().profile, PHONE)
    assert record.figures[f"profile.{PHONE}.sqnr_to_cpu_db"] > 100
    assert record.facts["off the NPU"] == "CPU: gelu (Gelu)"
    verify(record.artifacts["phone"].path, record.artifacts["phone"].sha256)
    assert (record.artifacts["phone"].path / "quantized.bin").is_file()
    assert judge((Gate(metric=f"profile.{PHONE}.p50_ms", max=3.0),), record.figures).passed
    told = [record.model_dump_json().encode(), *(p.read_bytes() for p in work.rglob("*") if p.is_file())]
    assert not [text for text in told if aihub.TOKEN.encode() in text]


def test_a_job_that_was_not_waited_for_long_enough_is_taken_up_with_more_minutes(given, tmp_path, monkeypatch):
    service, recipe = aihub.AiHub(), one_step.recipe()
    monkeypatch.setenv("QAIHUB_CLIENT_INI", str(service.configure(tmp_path)))
    monkeypatch.setattr(hub.Hub.__init__, "__defaults__", (0.01,))
    phone = recipe.profile.phone.model_copy(update={"timeout_minutes": 1e-4})
    hasty = recipe.model_copy(update={"profile": recipe.profile.model_copy(update={"phone": phone})})
    service.polls = 10**6
    with pytest.raises(EffectError, match="not done yet"):
        profile.run(hasty, given, tmp_path / "work", device=PHONE)
    service.polls, service.left[service.submitted("compile")[0]] = 0, 0
    profile.run(recipe, given, tmp_path / "work", device=PHONE)
    service.close()
    assert [len(service.submitted(kind)) for kind in ("compile", "inference")] == [1, 1]


def test_a_phone_without_access_has_no_figures_and_fails_its_gate_as_missing(given, host, tmp_path, monkeypatch):
    monkeypatch.setenv("QAIHUB_CLIENT_INI", str(tmp_path / "none.ini"))
    record = profile.run(one_step.recipe(), given, tmp_path, device=PHONE)
    assert (record.figures, record.artifacts) == ({}, {})
    assert record.facts[f"profile.{PHONE}"].startswith("not measured")
    gate = Gate(metric=f"profile.{PHONE}.p50_ms", max=1e9)
    verdict = judge((gate,), {**record.figures, **host[1].figures})
    assert not verdict.passed
    assert "not measured" in verdict.rows[0].reason


def test_a_phone_that_is_plugged_in_is_measured_in_its_own_name(given, tmp_path, monkeypatch):
    android.Android(tmp_path / "android").plug(monkeypatch)
    recipe = one_step.recipe()
    recipe = check({**recipe.model_dump(mode="json"), "profile": {"repeats": 3, "phone": {"provider": "cpu"}}})
    record = profile.run(recipe, given, tmp_path / "work", device="adb:8a1c")
    assert record.figures["profile.adb:8a1c.p50_ms"] > 0
    assert record.figures.keys() == of_device(recipe.profile, "adb:8a1c")
    assert judge((Gate(metric="profile.adb:8a1c.p50_ms", max=1e9),), record.figures).passed
    verify(record.artifacts["phone"].path, record.artifacts["phone"].sha256)
    monkeypatch.delenv("MOBILEVD_ANDROID_RUNNER")
    record = profile.run(recipe, given, tmp_path / "without", device="adb")
    assert record.figures == {}
    assert record.facts["profile.adb"].startswith("not measured")


def test_an_emulated_npu_says_what_it_computes_and_never_how_fast(given, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime_qnn", reason="Qualcomm's compiler is built for Linux x86-64 alone")
    seen = {
        "torch's": profile.collapse.Seen(43.8, None, "The emulated run failed: signal 11"),
        "ours": profile.collapse.Seen(43.9, SimpleNamespace(sqnr_db=43.7)),
    }
    monkeypatch.setattr(profile.collapse, "measure", lambda target: seen if target.soc_model == 57 else {})
    recipe = check({**one_step.recipe().model_dump(mode="json"), "profile": {"npu_effort": "longest"}})
    record = profile.run(recipe, given, tmp_path, device="snapdragon-8-gen-3")
    assert record.facts["compiler's effort"] == "longest"
    assert record.figures["profile.snapdragon-8-gen-3.partitions"] == 1
    assert record.figures.keys() == of_device(recipe.profile, "snapdragon-8-gen-3")
    assert record.figures["profile.snapdragon-8-gen-3.sqnr_db"] > 30  # float graphs run in half precision there
    assert not [name for name in record.figures if "_ms" in name]
    assert "not the phone's" in record.facts["latency"]
    rows = [list(row.values()) for row in record.tables["SiLU at 16 bits"]]
    assert rows == [["torch's", 43.8, "The emulated run failed: signal 11"], ["ours", 43.9, 43.7]]
    verdict = judge((Gate(metric="profile.snapdragon-8-gen-3.p50_ms", max=1e9),), record.figures)
    assert not verdict.passed


def test_an_unknown_device_is_refused(given, tmp_path):
    with pytest.raises(MobileVDError, match="Unknown device"):
        profile.run(one_step.recipe(), given, tmp_path, device="pixel")


def test_a_graph_that_changed_since_it_was_sealed_is_not_profiled(given, tmp_path):
    path = given["quantize"].artifacts["onnx"].path / "quantized.onnx"
    kept = path.read_bytes()
    path.write_bytes(kept + b"\x00")
    try:
        with pytest.raises(IntegrityError, match="changed"):
            profile.run(one_step.recipe(), given, tmp_path, device="host-cpu")
    finally:
        path.write_bytes(kept)


@pytest.mark.parametrize(("device", "alone"), [("host-cpu", True), ("snapdragon-8-gen-3", False), (PHONE, False)])
def test_the_host_is_measured_while_nothing_else_is_and_others_wait_by_themselves(
    given, tmp_path, monkeypatch, device, alone
):
    inside, seen = [], []

    @contextmanager
    def quiet(what):
        inside.append(what)
        yield
        inside.remove(what)

    monkeypatch.setattr(profile, "quiet", quiet)
    for way in ("_measured", "_emulated", "_phoned"):
        monkeypatch.setattr(profile, way, lambda *_: seen.extend(inside) or {})
    profile.run(one_step.recipe(), given, tmp_path, device=device)
    assert seen == ([device] if alone else [])
