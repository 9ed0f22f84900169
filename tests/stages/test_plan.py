"""What is said before and after a run, and what is refused before it starts."""

import importlib.util
import sys
from dataclasses import asdict

import android
import pytest
import tiny_svd

from mobilevd.device import hub, plugged
from mobilevd.errors import MobileVDError, RecipeError, SurgeryError
from mobilevd.evaluation.gates import judge
from mobilevd.packages import project_root
from mobilevd.params import check
from mobilevd.settings import Gate
from mobilevd.stages import plan
from mobilevd.svd.base import Base


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_svd.write_base(tmp_path_factory.mktemp("base"))


def recipe(base, **changes):
    optim = {"lr": 1.0e-3}
    adversarial = {"steps": 1, "generator": optim, "discriminator": optim}
    sections = {
        "name": "tiny",
        "base": str(base),
        "seed": 3,
        "finetune": {"steps": 1, "optim": optim},
        "distill": {"adversarial": adversarial},
        "prune": {"keep": 9, "adversarial": adversarial},
        "funnel": {"adversarial": adversarial},
        "gates": [{"metric": "student.fvd", "max": 1.0}],
    }
    return check(sections | changes)


def test_run_folder_is_the_flows_and_the_runs_own(monkeypatch):
    monkeypatch.delenv("MOBILEVD_RUNS", raising=False)
    assert plan.run_folder("TrainFlow", "17") == str(project_root() / "runs" / "TrainFlow" / "17")
    monkeypatch.setenv("MOBILEVD_RUNS", "/scratch/runs")
    assert plan.run_folder("TrainFlow", "17") == "/scratch/runs/TrainFlow/17"


def test_nothing_to_resume_from_is_told_before_anything_runs(base, tmp_path):
    asked = recipe(base, training={"resume": {"finetune": str(tmp_path / "gone")}})
    with pytest.raises(RecipeError, match=r"nothing to resume from(.|\n)*gone \(no such folder"):
        plan.announce(asked, "/runs/1")


def test_announcement_tells_recipe_base_seed_clip_and_folder(base):
    told = plan.announce(recipe(base), "/runs/1")
    for expected in (
        f"recipe tiny ({recipe(base).digest[:12]})",
        f"base {base} ({Base(base).digest[:12]}), seed 3",
        "14 frames at 7 fps, 512x256",
        "/runs/1",
    ):
        assert expected in told


def test_clip_that_does_not_fit_the_base_is_refused_before_any_stage(tmp_path):
    tiny_svd.write_base(tmp_path)
    parts = {"block_out_channels": (32,) * 5, "down_block_types": ("DownEncoderBlock2D",) * 5}
    tiny_svd.vae(**parts).save_pretrained(tmp_path / "vae")
    with pytest.raises(RecipeError, match=r"does not fit the base(.|\n)*multiples of 128"):
        plan.announce(recipe(tmp_path, clip={"width": 192, "height": 128}), "/runs/1")


def test_clips_that_the_evaluation_cannot_take_are_refused_before_any_stage(base):
    plan.announce(recipe(base, clip={"frames": 9}), "/runs/1")
    with pytest.raises(RecipeError, match=r"too short for the evaluation\n  got:     8 frames\n  allowed: 9 or more"):
        plan.announce(recipe(base, clip={"frames": 8}), "/runs/1")


def test_what_a_later_stage_would_refuse_is_refused_before_any_stage(base):
    asked = recipe(base)
    asked = asked.model_copy(update={"prune": asked.prune.model_copy(update={"keep": 25})})
    with pytest.raises(SurgeryError, match=r"^The stage prune could not run: .* that many temporal blocks\n.*25"):
        plan.announce(asked, "/runs/1")


TOOLS = {
    "aimet_onnx": ("quantize", {"quantize": {"quantizer": "aimet"}}, "Qualcomm's quantizer is not installed"),
    "onnxruntime_qnn": (
        "profile",
        {"profile": {"devices": ["host-cpu", "snapdragon-8-gen-3"]}},
        "Qualcomm's compiler is not installed",
    ),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_that_is_not_installed_is_told_before_any_stage(base, monkeypatch, tool):
    (step, changes, told), find = TOOLS[tool], importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == tool else find(name, *more))
    plan.announce(recipe(base), "/runs/1")
    with pytest.raises(MobileVDError, match=rf"{told}\n  got:     no {tool}"):
        plan.announce(recipe(base, **changes), "/runs/1")
    elsewhere = {"steps": {step: {"image": "with-the-tool"}}}
    plan.announce(recipe(base, machines=elsewhere, **changes), "/runs/1")


@pytest.mark.parametrize(
    ("step", "player"),
    [("finetune", None), ("distill", "generator"), ("prune", "discriminator"), ("funnel", "generator")],
)
def test_an_optimizer_whose_library_is_missing_is_told_before_any_stage(base, monkeypatch, step, player):
    pytest.importorskip("bitsandbytes")
    asked = recipe(base).model_dump(mode="json")
    asked[step]["adversarial" if player else "optim"].update(
        {player: {"lr": 1.0e-3, "kind": "adamw_8bit"}} if player else {"kind": "adamw_8bit"}
    )
    plan.announce(check(asked), "/runs/1")
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(RecipeError, match=rf"pip install bitsandbytes, .* of {step}$"):
        plan.announce(check(asked), "/runs/1")
    elsewhere = {"machines": {"steps": {step: {"image": "with-the-library"}}}}
    plan.announce(check(asked | elsewhere), "/runs/1")


def test_a_gate_that_no_figure_can_pass_is_refused_before_any_stage(base):
    plan.announce(recipe(base, gates=[{"metric": "profile.host-cpu.p50_ms", "max": 1.0}]), "/runs/1")
    for metric, allowed in (("student.fvdd", "student.fvd, "), ("profile.adb.p50_ms", "a device of profile.devices")):
        with pytest.raises(RecipeError, match=rf"got:     {metric}\n  allowed: {allowed}(.|\n)*where:   gates"):
            plan.announce(recipe(base, gates=[{"metric": metric, "max": 1.0}]), "/runs/1")


def test_a_gate_on_a_phone_that_cannot_be_measured_here_is_said_to_reject_the_run(base, tmp_path, monkeypatch):
    monkeypatch.delenv(hub.TOKEN, raising=False)
    monkeypatch.setenv("QAIHUB_CLIENT_INI", str(tmp_path / "none.ini"))
    monkeypatch.delenv(plugged.RUNNER, raising=False)
    phones = ["qai-hub:Samsung Galaxy S24", "adb"]
    gates = [{"metric": f"profile.{phone}.p50_ms", "max": 2000.0, "measured_on": "phone"} for phone in phones]
    devices = {"devices": ["host-cpu", *phones]}
    asked = {"profile": devices, "gates": [{"metric": "student.fvd", "max": 1.0}, *gates]}
    lines = plan.announce(recipe(base, **asked), "/runs/1").splitlines()
    said = "WARNING: this run will be rejected: the gate on profile.{}.p50_ms will fail as not measured: {}"
    assert lines[3].startswith(said.format(phones[0], "there is no token for Qualcomm AI Hub on this machine"))
    assert lines[4].startswith(said.format(phones[1], "this machine has no adb, or $MOBILEVD_ANDROID_RUNNER"))
    assert len(lines) == 5
    assert "WARNING" not in plan.announce(recipe(base, profile=devices), "/runs/1")  # no gate asks for them
    elsewhere = {"machines": {"steps": {"profile": {"image": "with-the-token"}}}}
    assert "WARNING" not in plan.announce(recipe(base, **asked, **elsewhere), "/runs/1")
    monkeypatch.setenv(hub.TOKEN, "a-token")
    android.Android(tmp_path / "android").plug(monkeypatch)
    assert "WARNING" not in plan.announce(recipe(base, **asked), "/runs/1")


def test_base_that_is_none_is_refused_before_any_stage(tmp_path):
    (tmp_path / "base").mkdir()
    with pytest.raises(RecipeError, match="not in diffusers layout"):
        plan.announce(recipe(tmp_path / "base"), "/runs/1")


def records(verdict: str, version: str) -> dict[str, dict]:
    """What a run leaves for its last words; the rows are the gate's own."""
    gates = (
        Gate(metric="student.fvd", max_ratio=1.5, of="teacher.fvd"),
        Gate(metric="quantize.sqnr_db", min=15.0),
        Gate(metric="profile.x.p50_ms", max=2.0),
    )
    figures = {"student.fvd": 812.5, "teacher.fvd": 700.0, "quantize.sqnr_db": 12.0}
    rows = [asdict(row) for row in judge(gates, figures).rows]
    facts = {"model": "tiny", "version": version, "tracking_uri": "sqlite:///x", "bundle": "/b", "page": "/p.html"}
    return {
        "prepare": {"seconds": 107.8},
        "gate": {"facts": {"verdict": verdict}, "tables": {"gates": rows}, "seconds": 0.2},
        "register": {"facts": facts, "seconds": 12.0},
    }


def test_summary_tells_every_gate_the_version_and_where_things_lie():
    lines = plan.summary(records("rejected", "none")).splitlines()
    assert lines[1:4] == [
        "verdict   rejected",
        "  pass  student.fvd: 812.5 is at most 1050",
        "  FAIL  quantize.sqnr_db: 12 is below 15",
    ]
    assert lines[4].startswith("  FAIL  profile.x.p50_ms: profile.x.p50_ms was not measured")
    assert lines[5:] == [
        "registry  tiny version none  (sqlite:///x)",
        "bundle    /b",
        "page      /p.html",
        "time      2.0 min in stages: prepare 108 s, gate 0 s, register 12 s",
    ]


def test_summary_of_a_passed_run_names_its_version():
    assert "tiny version 4" in plan.summary(records("passed", "4"))


def test_every_device_has_its_own_folder():
    assert plan.profile_folder("host-cpu") == "profile-host-cpu"
    assert plan.profile_folder("qai-hub:Samsung Galaxy S24") == "profile-qai-hub-samsung-galaxy-s24"


@pytest.mark.parametrize("devices", [["host-cpu", "host-cpu"], ["qai-hub:Galaxy S24", "qai-hub:Galaxy-S24"]])
def test_devices_that_would_write_to_one_folder_are_refused_before_any_stage(base, devices):
    with pytest.raises(RecipeError, match=f"one folder in the run(.|\\n)*{', '.join(devices)}"):
        plan.announce(recipe(base, profile={"devices": devices}), "/runs/1")
