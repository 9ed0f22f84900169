"""The gate stage: figures merged without losing any, verdict written down, never an exception for a bad model."""

import json

import candidates
import mlflow_store
import pytest

from mobilevd.artifacts import Artifact, StageRecord, verify
from mobilevd.errors import IntegrityError
from mobilevd.evaluation.gates import Champion
from mobilevd.params import Recipe, check
from mobilevd.registry import versions
from mobilevd.stages import gate, promote

OPTIM = {"lr": 1.0e-4}
FIELDS = {
    "real": "a",
    "extractor": "b",
    "sampler": "c",
    "clips": 16,
    "frames": 14,
    "fps": 7.0,
    "width": 512,
    "height": 256,
}
FIELDS |= {"resize": "tf-reference", "crop": "none", "seed": 0, "dtype": "float32"}
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


FACTS = {"fingerprint." + name: json.dumps(value) for name, value in FIELDS.items()}
FAMILY = "qai-hub:Samsung Galaxy S24 (Family)"
CHAMPION_GATES = recipe(
    {"metric": "student.fvd", "max_worse_percent": 10.0, "of": "champion"},
    {"metric": "profile.host-cpu.p50_ms", "max_worse": 5.0, "of": "champion"},
)


def scored(student: float, network: str = "n" * 64, made_at: float = 100.0, **facts: str) -> dict[str, StageRecord]:
    """A network, its score on protocol FACTS a minute after it was made, and its time on a host."""
    own = {"recipe_digest": CHAMPION_GATES.digest, "data_md5": "d" * 32}
    figures = {"student.fvd": student, "teacher.fvd": 200.0}
    made = {"network": Artifact(uri="x", sha256=network)}
    device = {"device": "host-cpu (host; ONNX Runtime)", "processor": facts.pop("processor", "x86")}
    return {
        "funnel": StageRecord(stage="funnel", artifacts=made, started_at=made_at - 50, seconds=50.0, **own),
        "evaluate": StageRecord(
            stage="evaluate",
            parents={"funnel": "n" * 64},
            figures=figures,
            facts=FACTS | facts,
            started_at=160.0,
            **own,
        ),
        "profile-host-cpu": StageRecord(
            stage="profile", figures={"profile.host-cpu.p50_ms": 20.0}, facts=device, started_at=170.0, **own
        ),
    }


@pytest.fixture
def champion(tmp_path) -> Champion:
    """The report of an earlier run, read back."""
    gate.run(CHAMPION_GATES, scored(280.0), tmp_path / "before", Champion(none_yet=True))
    return gate.read_champion(tmp_path / "before" / "gates" / "gates.json")


def reasons(tmp_path, champion: Champion | None, inputs: dict[str, StageRecord]) -> list[str]:
    """Why the gates did not pass."""
    made = gate.run(CHAMPION_GATES, inputs, tmp_path / "now", champion)
    return [row["reason"] for row in made.tables["gates"] if not row["passed"]]


def test_report_holds_what_a_later_run_is_held_against(tmp_path, champion):
    told = json.loads((tmp_path / "before" / "gates" / "gates.json").read_text(encoding="utf-8"))
    assert told["verdict"] == "passed"
    assert told["fingerprint"] == FIELDS
    assert told["devices"] == {"host-cpu": "x86"}
    assert champion.figures["student.fvd"] == 280.0
    assert [row["status"] for row in told["rows"]] == ["pass", "pass"]


def test_devices_of_one_name_but_another_provider_or_class_are_told_apart(tmp_path):
    judged = recipe({"metric": f"profile.{FAMILY}.p50_ms", "max": 30.0, "measured_on": "phone"})
    facts = {"device": f"{FAMILY} (phone; Qualcomm AI Hub)", "processor": "SM8650", "runtime": "qnn_dlc"}
    own = {"recipe_digest": judged.digest, "data_md5": "d" * 32, "stage": "profile", "facts": facts}
    record = StageRecord(figures={f"profile.{FAMILY}.p50_ms": 20.0}, **own)
    made = gate.run(judged, {"profile": record}, tmp_path)
    assert made.facts["verdict"] == "passed"
    told = json.loads((tmp_path / "gates" / "gates.json").read_text(encoding="utf-8"))
    assert told["devices"] == {FAMILY: "SM8650, qnn_dlc"}
    assert gate.origin_of(f"profile.{FAMILY}.p50_ms", {}, told["devices"]).kind == "phone"


def test_run_is_held_against_the_champion(tmp_path, champion):
    assert reasons(tmp_path, champion, scored(308.0)) == []
    assert reasons(tmp_path, champion, scored(309.0)) == ["309 is above 308"]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (scored(280.0, **{"fingerprint.fps": "25.0"}), "another protocol, which differs in fps"),
        (scored(280.0, network="m" * 64), "another artifact of funnel"),
        (scored(280.0, made_at=500.0), "student.fvd is stale: measured 340 s before"),
        (scored(280.0, processor="arm"), "measured on x86, this one on arm"),
        (scored(float("nan")), "is NaN"),
    ],
)
def test_score_that_says_nothing_of_what_ships_is_refused(tmp_path, champion, inputs, said):
    [reason] = reasons(tmp_path, champion, inputs)
    assert said in reason


def test_gate_against_a_champion_that_nobody_named_does_not_pass(tmp_path):
    told = reasons(tmp_path, None, scored(1.0))
    assert len(told) == 2
    assert all("no champion was given" in reason for reason in told)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.delenv(versions.LEDGER, raising=False)
    return mlflow_store.use(tmp_path / "store", monkeypatch)


def test_registrys_champion_is_what_the_flow_holds_a_run_against(store, tmp_path):
    assert gate.champion_of(CHAMPION_GATES) == Champion(none_yet=True)
    assert gate.against_champion(CHAMPION_GATES, scored(900.0), tmp_path / "first").facts["verdict"] == "passed"
    told = {"figures": {"student.fvd": 280.0, "profile.host-cpu.p50_ms": 20.0}, "fingerprint": FIELDS}
    version = candidates.offer(tmp_path / "run", reported=told | {"devices": {"host-cpu": "x86"}})
    promote.run(candidates.MODEL, promote.candidate(candidates.MODEL, version, "tried"), lambda folder: None)
    for student, verdict in ((308.0, "passed"), (309.0, "rejected")):
        made = gate.against_champion(CHAMPION_GATES, scored(student), tmp_path / "now")
        assert made.facts["verdict"] == verdict
    candidates.edit(candidates.stored(version) / "gates.json", figures={"student.fvd": 9000.0})
    with pytest.raises(IntegrityError, match=r"gates\.json"):
        gate.champion_of(CHAMPION_GATES)


def test_registry_is_not_asked_when_no_gate_wants_a_champion(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert gate.champion_of(RECIPE) is None


def test_report_without_figures_is_no_champion(tmp_path):
    with pytest.raises(IntegrityError, match="no figures"):
        gate.read_champion(tmp_path / "gates.json")
