"""A changed value reaches every stage that reads it or anything made of it, and no other."""

import copy
from pathlib import Path

import candidates
import pytest

from mobilevd.artifacts import StageRecord, seal
from mobilevd.params import Recipe, check
from mobilevd.stages import reuse
from mobilevd.stages.reuse import CHAIN, still_valid

DATA = "d" * 32


def recipe(**changes) -> Recipe:
    """The tests' recipe with single keys changed: ``quantize__opset=19``."""
    values = copy.deepcopy(candidates.SECTIONS)
    for path, value in changes.items():
        *above, last = path.split("__")
        node = values
        for part in above:
            node = node.setdefault(part, {})
        node[last] = value
    return check(values)


@pytest.fixture
def records(tmp_path) -> dict[str, StageRecord]:
    """What a whole run left."""
    before, found = recipe(), {}
    for stage in CHAIN:
        folder = tmp_path / stage / "made"
        folder.mkdir(parents=True)
        (folder / "bytes").write_text(stage)
        values = {"recipe_digest": before.digest, "data_md5": DATA, "artifacts": {"made": seal(folder)}}
        found["profile-host-cpu" if stage == "profile" else stage] = StageRecord(stage=stage, **values)
    return found


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"gates": [{"metric": "student.fvd", "max": 1.0}]}, ()),
        ({"registry__model": "another"}, ()),
        ({"retrain__cron": "0 2 * * ? *"}, ()),
        ({"machines__nodes": 4}, ()),
        ({"evaluate__clips": 20}, ("evaluate",)),
        ({"profile__repeats": 30}, ("profile",)),
        ({"quantize__opset": 19}, ("quantize", "profile", "evaluate")),
        ({"funnel__fun_factor": 0.25}, ("funnel", "quantize", "profile", "evaluate")),
        ({"prune__keep": 2}, CHAIN[3:]),
        ({"distill__temporal_multiscale": {"down": "stride"}}, CHAIN[2:]),
        ({"finetune__steps": 2}, CHAIN[1:]),
        ({"training__health": {"patience": 30}}, CHAIN[1:]),
        ({"training__precision": "bf16"}, CHAIN[1:]),
        ({"training__workers": 3}, ()),
        ({"training__shard": True}, ()),
        ({"training__gradient_checkpointing": True}, ()),
        ({"training__resume": {"distill": "elsewhere"}}, ()),
        ({"registry__live": True}, ()),
        ({"profile__phone": {"timeout_minutes": 7}}, ()),
        ({"evaluate__motion_bucket": 100}, CHAIN[1:]),
        ({"prepare__windows_per_source": 3}, CHAIN),
        ({"seed": 1}, CHAIN),
        ({"clip__fps": 8.0}, CHAIN),
    ],
)
def test_only_the_stages_that_a_change_reaches_run_again(records, changes, again):
    after = recipe(**changes)
    kept = still_valid(after, recipe(), DATA, records)
    assert [stage for stage in CHAIN if stage not in {record.stage for record in kept.values()}] == list(again)
    assert {record.recipe_digest for record in kept.values()} <= {after.digest}
    assert all(recipe().digest in record.facts["reused"] for record in kept.values())


@pytest.mark.parametrize("key", ["workers", "shard", "gradient_checkpointing", "resume", "live", "timeout_minutes"])
def test_what_the_digest_does_not_count_is_read_by_no_stage(key):
    """Else a champion's run would be thrown away for a recipe that is, by its digest, the champion's own."""
    changes = {"workers": 3, "shard": True, "gradient_checkpointing": True, "resume": {"prune": "elsewhere"}}
    places = {"live": {"registry__live": True}, "timeout_minutes": {"profile__phone": {"timeout_minutes": 7}}}
    changed = recipe(**places.get(key) or {f"training__{key}": changes[key]})
    assert changed != recipe()
    assert changed.digest == recipe().digest
    assert [stage for stage in CHAIN if reuse.reads(changed, stage) != reuse.reads(recipe(), stage)] == []


def test_a_stage_that_did_not_leave_the_heads_that_are_asked_for_runs_again(records, tmp_path):
    after = recipe(prune__adversarial=dict(candidates.SECTIONS["prune"]["adversarial"]) | {"heads_from": "previous"})
    assert "distill" not in still_valid(after, recipe(), DATA, records)
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads" / "bytes").write_text("heads")
    records["distill"].artifacts["heads"] = seal(tmp_path / "heads")
    assert set(still_valid(after, recipe(), DATA, records)) == set(CHAIN[:3])


def test_other_data_or_an_unknown_recipe_leave_nothing(records):
    assert still_valid(recipe(), recipe(), DATA, records).keys() == records.keys()
    assert still_valid(recipe(), recipe(), "e" * 32, records) == {}
    assert still_valid(recipe(), None, DATA, records) == {}


@pytest.mark.parametrize("harm", ["gone", "changed", "never made"])
def test_a_stage_whose_artifact_is_not_what_was_sealed_runs_again_with_all_that_follows(records, harm):
    folder = Path(records["prune"].artifacts["made"].uri)
    if harm == "gone":
        folder.rename(folder.with_name("moved"))
    elif harm == "changed":
        (folder / "bytes").write_text("other")
        seal(folder)
    else:
        del records["prune"]
    assert set(still_valid(recipe(), recipe(), DATA, records)) == {"prepare", "finetune", "distill"}


def test_a_phone_that_was_not_measured_is_asked_again_and_the_others_are_not(records):
    told = {"profile.qai-hub:Samsung Galaxy S24": "not measured: there is no token"}
    records["profile-qai-hub"] = records["profile-host-cpu"].model_copy(update={"artifacts": {}, "facts": told})
    assert "profile" not in {record.stage for record in still_valid(recipe(), recipe(), DATA, records).values()}
    del records["profile-qai-hub"]
    assert "profile-host-cpu" in still_valid(recipe(), recipe(), DATA, records)


def test_every_section_of_a_recipe_is_read_by_a_stage_or_known_to_be_read_by_none():
    whole = recipe().model_dump(mode="json")
    seen = set().union(*(reuse.reads(recipe(), stage) for stage in CHAIN)) - {"at_inference"}
    assert seen | reuse.READ_BY_NO_STAGE == set(whole)
    assert not seen & reuse.READ_BY_NO_STAGE
