"""A scheduled run does nothing when nothing changed, only what changed when something did, and never twice at once."""

from importlib.metadata import version as installed

import candidates
import mlflow_store
import pytest
import yaml

from mobilevd import alerts
from mobilevd.artifacts import StageRecord, seal, write_json
from mobilevd.errors import DataError, RecipeError
from mobilevd.packages import project_root
from mobilevd.params import check
from mobilevd.registry import acceptance, history, runs, versions
from mobilevd.stages import lineage, promote, retrain
from mobilevd.svd import base as bases
from mobilevd.video import identity

FIGURES = {"student.fvd": 800.0}


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "one.mp4").write_bytes(b"a film")
    return tmp_path / "data"


@pytest.fixture
def recipe(data):
    """``recipe(**sections)``: the tests' recipe on the data folder."""
    return lambda **sections: check(candidates.SECTIONS | {"prepare": {"data": str(data), "pin": None}} | sections)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.delenv(versions.LEDGER, raising=False)
    return mlflow_store.use(tmp_path / "store", monkeypatch)


@pytest.fixture
def trained(store, tmp_path, data):
    """``trained(recipe)``: a whole run of it, written down, registered if it passed; returns its records."""

    def make(recipe, verdict=acceptance.PASSED):
        number = len(list(tmp_path.glob("run*")))
        workdir, md5 = tmp_path / f"run{number}", identity.unpinned(data)
        own, records = {"recipe_digest": recipe.digest, "data_md5": md5}, {}
        for stage in ("prepare", "finetune", "distill", "prune", "funnel", "quantize", "profile", "evaluate"):
            folder = workdir / stage / "made"
            folder.mkdir(parents=True)
            (folder / "bytes").write_text(f"{stage} {number}")
            records[stage] = StageRecord(stage=stage, artifacts={"made": seal(folder)}, **own)
        records["evaluate"] = records["evaluate"].model_copy(update={"figures": FIGURES})
        told = {"facts": {"verdict": verdict}}
        records["gate"] = StageRecord(stage="gate", **own, **told)
        run_id = runs.log_run(recipe, records, verdict, [], {"data_md5": md5})
        number = "none"
        if verdict == acceptance.PASSED:
            number = register(recipe, run_id, md5, workdir)
        facts = {"verdict": verdict, "version": number}
        return records | {"register": StageRecord(stage="register", facts=facts, **own)}

    return make


def register(recipe, run_id, md5, workdir) -> str:
    """A bundle whose report, recipe and lineage are this run's; returns its version."""
    told = candidates.report(recipe=recipe.digest, data_md5=md5, figures=FIGURES)
    write_json(workdir / "gates" / lineage.REPORT, told)
    folder = workdir / "bundle"
    candidates.bundle(folder, seal(workdir / "gates"), candidates.few_bytes)
    write_json(folder / lineage.REPORT, told)
    (folder / lineage.RECIPE).write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    made_by = {"versions": {"mobilevd": installed("mobilevd")}, "base": {"sha256": bases.load(recipe.base).digest}}
    candidates.edit(folder / lineage.LINEAGE, recipe={"name": "tiny", "sha256": recipe.digest}, data_md5=md5, **made_by)
    mlflow_store.client().log_artifacts(run_id, str(workdir / "gates"), versions.REPORT_FOLDER)
    return acceptance.register(recipe, run_id, seal(folder), {})


def still(folder) -> None:
    """Stands for the smoke run of a bundle that has no network."""


def crown(records) -> None:
    promote.run(candidates.MODEL, promote.candidate(candidates.MODEL, records["register"].facts["version"], ""), still)


def decide(recipe, token="run 1", **options):
    return retrain.decide(recipe, token, "runs/1", **options)


def test_without_a_champion_everything_is_trained_and_nobody_else_starts_meanwhile(store, recipe):
    decision = decide(recipe())
    assert decision.due
    assert decision.records == {}
    assert "no champion yet" in decision.why
    assert "this run writes to runs/1" in decision.plan
    other = decide(recipe(), "run 2")
    assert not other.due
    assert "run 1 is at it" in other.why


@pytest.mark.parametrize("verdict", [acceptance.PASSED, acceptance.REJECTED])
def test_the_same_recipe_on_the_same_data_is_not_trained_again_whatever_came_of_it(trained, recipe, verdict):
    trained(recipe(), verdict)
    decision = decide(recipe())
    assert not decision.due
    assert ("became version 1" if verdict == acceptance.PASSED else "was rejected") in decision.why
    assert decide(recipe(), "run 2").why == decision.why, "the turn was given back"
    forced = decide(recipe(), "run 3", force=True)
    assert forced.due
    assert forced.records == {}


def test_a_changed_gate_trains_nothing_and_a_changed_quantization_no_network(trained, recipe):
    crown(trained(recipe()))
    gates = [{"metric": "student.fvd", "max": 850.0}]
    kept = decide(recipe(gates=gates)).records
    assert list(kept) == ["prepare", "finetune", "distill", "prune", "funnel", "quantize", "profile", "evaluate"]
    decision = decide(recipe(quantize={"opset": 19}), "run 1")
    assert list(decision.records) == ["prepare", "finetune", "distill", "prune", "funnel"]
    assert "since champion 1: recipe" in decision.why


def test_new_data_trains_everything(trained, recipe, data):
    crown(trained(recipe()))
    (data / "two.mp4").write_bytes(b"another film")
    decision = decide(recipe())
    assert decision.due
    assert "since champion 1: data" in decision.why
    assert "no stage" in decision.why
    assert decision.records == {}


def test_another_version_of_the_code_reuses_nothing(trained, recipe, monkeypatch):
    crown(trained(recipe()))
    monkeypatch.setattr(retrain, "installed", lambda _: "99")
    assert decide(recipe(quantize={"opset": 19})).records == {}


def test_a_recipe_that_cannot_run_gives_the_turn_back(store, recipe):
    small = recipe(clip={"frames": 14, "width": 192, "height": 128})
    with pytest.raises(RecipeError, match="multiples of 128"):
        decide(small)
    with pytest.raises(DataError):
        decide(recipe(prepare={"data": "/nowhere", "pin": None}), "run 2")
    assert decide(recipe(), "run 3").due


def test_the_pin_is_the_identity_of_the_data(store, recipe):
    pinned = recipe(prepare={"pin": "data.dvc"})
    assert retrain.pinned.md5(pinned.prepare) == identity.identity(project_root() / "data.dvc")


def test_an_accepted_model_waits_for_a_person_or_is_promoted_as_the_recipe_says(trained, recipe, monkeypatch):
    crown(trained(recipe()))
    better = recipe(gates=[{"metric": "student.fvd", "max": 850.0}])
    decide(better)
    waiting = trained(better)
    told = []
    monkeypatch.setattr(alerts, "tell", lambda text, **facts: told.append((text, facts["version"])))
    settled = retrain.settle(better, "run 1", waiting, still)
    assert "version 2 waits for a person" in settled.outcome
    assert told == [(f"{candidates.MODEL}: {settled.outcome}", "2")]
    assert settled.rows == [{"figure": "student.fvd", "champion": 800.0, "this run": 800.0, "change, %": 0.0}]
    automatic = recipe(retrain={"promote": "automatic"})
    assert decide(automatic, "run 2", force=True).due, "the turn was given back"
    settled = retrain.settle(automatic, "run 2", waiting, still)
    assert ("promote 1 → 2" in settled.outcome, settled.champion) == (True, "2")
    assert versions.aliases(candidates.MODEL)["champion"] == "2"


def test_a_rejected_model_is_not_offered(trained, recipe):
    decide(recipe())
    records = trained(recipe(), acceptance.REJECTED)
    settled = retrain.settle(recipe(), "run 1", records, still)
    assert "nothing is offered" in settled.outcome
    assert settled.rows[0]["champion"] is None
    assert promote.ledger(candidates.MODEL).history() == []


def test_records_come_back_from_the_registry_as_they_were_written_down(trained, recipe):
    records = trained(recipe())
    found = history.same(recipe(), records["prepare"].data_md5)
    assert (found.verdict, found.version) == (acceptance.PASSED, "1")
    assert history.records(found.run_id) == {name: r for name, r in records.items() if name != "register"}
    assert history.same(recipe(seed=1), records["prepare"].data_md5) is None
