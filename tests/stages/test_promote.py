"""Who may become champion, and that a refusal, a crash or a race leaves exactly one, the one the ledger names."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import candidates
import mlflow_store
import pytest
import receiver
import seaweed
from candidates import MODEL

from mobilevd import alerts
from mobilevd.artifacts import seal, write_json
from mobilevd.errors import EffectError, MobileVDError, PromotionError
from mobilevd.registry import versions
from mobilevd.registry.ledger import champion
from mobilevd.stages import lineage, promote

SCRIPT = Path(__file__).with_name("promotions.py")
LEDGERS = ("", "s3://bucket/ledger-of-refusals")  # "": beside the artifacts, in a folder


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.delenv(versions.LEDGER, raising=False)
    return mlflow_store.use(tmp_path / "store", monkeypatch)


@pytest.fixture
def offer(store, tmp_path):
    """``offer(**changes)``: one more registered version."""
    return lambda: candidates.offer(tmp_path / f"run{len(list(tmp_path.glob('run*')))}")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A store with a champion, version 1, in a ledger of either kind, for tests that leave them as they are."""
    with pytest.MonkeyPatch.context() as patched:
        seaweed.use(patched)
        mlflow_store.use(tmp_path_factory.mktemp("shared"), patched)
        version = candidates.offer(tmp_path_factory.mktemp("champion"))
        for place in reversed(LEDGERS):
            patched.setenv(versions.LEDGER, place)
            up(version)
        yield


@pytest.fixture(scope="module")
def hook():
    """A webhook: its address, and everything it was told."""
    told = []

    def take(_, body):
        told.append(json.loads(body))
        return 500 if told[-1]["why"] == "fail" else 200

    with receiver.listening(take) as address:
        yield f"{address}/secret-path", told


@pytest.fixture
def events(hook, monkeypatch):
    """Everything that a webhook was told during one test, in order."""
    address, told = hook
    told.clear()
    monkeypatch.setenv(alerts.WEBHOOK, address)
    return told


def up(version: str | None = None, why: str = "", smoke=lambda folder: None):
    return promote.run(MODEL, promote.candidate(MODEL, version, why), smoke)


def back(version: str | None = None, smoke=lambda folder: None):
    return promote.run(MODEL, promote.former(MODEL, version, "it flickers"), smoke)


def state(events) -> tuple:
    return [entry.line for entry in promote.ledger(MODEL).history()], versions.aliases(MODEL), len(events)


def test_the_newest_candidate_becomes_champion_and_then_everyone_is_told(offer, events):
    first, second = offer(), offer()
    assert (up(first).to_version, up().to_version) == (first, second)
    entries = promote.ledger(MODEL).history()
    assert [(entry.from_version, entry.to_version) for entry in entries] == [(None, first), (first, second)]
    assert versions.aliases(MODEL) == {"champion": second, "previous": first}
    assert [(event["event"], event["to_version"]) for event in events] == [
        ("mobilevd.champion", first),
        ("mobilevd.champion", second),
    ]
    assert events[1]["text"] == f"{MODEL}: {entries[1].line}"
    tags = versions.find(MODEL, second).tags
    assert entries[1].bundle_sha256 == tags["bundle_sha256"]
    assert entries[1].who == promote._who()


def test_the_ledger_lies_beside_the_artifacts_or_where_the_environment_says(store, tmp_path, monkeypatch):
    assert versions.ledger_address(MODEL) == f"{tmp_path}/store/mlruns/ledger/{MODEL}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@server:5000")
    with pytest.raises(MobileVDError, match="MOBILEVD_LEDGER is not set") as caught:
        versions.ledger_address(MODEL)
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv(versions.LEDGER, "s3://bucket/ledger/")
    assert versions.ledger_address(MODEL) == f"s3://bucket/ledger/{MODEL}"


def test_the_ledger_may_lie_on_s3(offer, events, monkeypatch, request):
    seaweed.use(monkeypatch)
    monkeypatch.setenv(versions.LEDGER, f"s3://bucket/{request.node.name}")
    first, second = offer(), offer()
    up(first)
    late = promote.candidate(MODEL, second, "decided too early")
    up(second)
    before = state(events)
    with pytest.raises(PromotionError, match="Another switch came first"):
        promote.run(MODEL, late.model_copy(update={"after": 1, "from_version": first}), lambda folder: None)
    assert state(events) == before
    assert back().to_version == first


def _in_gates(report: dict):
    """Registered, sealed and tagged like any other, with another report inside."""

    def damage(version: str) -> None:
        folder = candidates.stored(version)
        write_json(folder / lineage.REPORT, candidates.report(**report))
        stored = folder.parents[1] / "pages" / "gates"
        write_json(stored / lineage.REPORT, candidates.report(**report))
        told = lineage.read(folder)
        told["stages"]["gate"]["artifacts"]["gates"] = seal(stored).sha256
        write_json(folder / lineage.LINEAGE, told)
        _retag(version, seal(folder).sha256)

    return damage


def _in_lineage(change):
    def damage(version: str) -> None:
        folder = candidates.stored(version)
        told = lineage.read(folder)
        change(told)
        write_json(folder / lineage.LINEAGE, told)
        _retag(version, seal(folder).sha256)

    return damage


def _retag(version: str, digest: str) -> None:
    mlflow_store.client().set_model_version_tag(MODEL, version, "bundle_sha256", digest)


def _other_row(version: str) -> None:
    _in_gates({"rows": [{"metric": "student.motion", "passed": True}]})(version)


def _resealed(version: str) -> None:
    folder = candidates.stored(version)
    (folder / "unet" / "weights.safetensors").write_text("another network")
    _retag(version, seal(folder).sha256)


def _in_store(version: str) -> None:
    candidates.edit(candidates.stored(version).parents[1] / "pages" / "gates" / lineage.REPORT, verdict="rejected")


def _in_description(version: str) -> None:
    path = candidates.stored(version).parent / "MLmodel"
    path.write_text(path.read_text().replace("mobilevd.stages.serve", "os"))


REFUSALS = {
    "a loader that nobody registered": (_in_description, "not the one registered"),
    "a changed weight": (lambda v: (candidates.stored(v) / "unet/weights.safetensors").write_text("x"), "file changed"),
    "a lost file": (lambda v: (candidates.stored(v) / "onnx/quantized.onnx").unlink(), "A file is missing"),
    "a bundle that is gone": (lambda v: shutil.rmtree(candidates.stored(v)), "has no manifest"),
    "a model that is gone": (lambda v: shutil.rmtree(candidates.stored(v).parent), "cannot be fetched"),
    "another network, sealed again": (_resealed, "unet/ is not the network that funnel made"),
    "no digest": (lambda v: mlflow_store.client().delete_model_version_tag(MODEL, v, "bundle_sha256"), "no digest"),
    "no stored report": (lambda v: shutil.rmtree(candidates.stored(v).parents[1] / "pages"), "cannot be fetched"),
    "another stored report": (_in_store, "file changed"),
    "a rejected report": (_in_gates({"verdict": "rejected"}), "Only a bundle that passed"),
    "an undecided report": (_in_gates({"verdict": "undecided"}), "Only a bundle that passed"),
    "a report without gates": (_in_gates({"rows": []}), "Only a bundle that passed"),
    "a gate that failed": (_in_gates({"rows": [{"metric": "student.fvd", "passed": False}]}), "student.fvd"),
    "a gate that says yes": (_in_gates({"rows": [{"metric": "student.fvd", "passed": "yes"}]}), "student.fvd"),
    "an undecided gate": (
        _in_gates({"rows": [{"metric": "student.fvd", "passed": True, "status": "undecided"}]}),
        "student.fvd undecided",
    ),
    "a gate that was not judged": (_other_row, "not every gate was judged"),
    "a report of another recipe": (_in_gates({"recipe": "r" * 64}), "of another recipe"),
    "a report of other data": (_in_gates({"data_md5": "e" * 32}), "of other data"),
    "a report of another artifact": (
        _in_lineage(lambda told: told["stages"]["gate"]["parents"].update({"funnel.network": "0" * 64})),
        "judged another funnel.network",
    ),
    "another protocol": (_in_gates({"fingerprint": {"clips": 8, "fps": 7.0}}), "scored as champion 1 was: clips$"),
    "no protocol": (_in_gates({"fingerprint": None}), "not scored as champion 1 was"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refused_candidate_changes_nothing(shared, events, tmp_path, monkeypatch, name):
    damage, said = REFUSALS[name]
    version = candidates.offer(tmp_path)
    damage(version)
    for place in LEDGERS:
        monkeypatch.setenv(versions.LEDGER, place)
        before = state(events)
        assert len(before[0]) == 1
        with pytest.raises(MobileVDError, match=f"(?m){said}"):
            up(version)
        assert state(events) == before


def test_the_protocol_of_a_champion_is_in_the_ledger(shared):
    assert promote.ledger(MODEL).history()[0].protocol == candidates.PROTOCOL


def test_a_model_that_does_not_animate_is_refused(shared, events, tmp_path):
    def breaks(folder):
        raise EffectError("The bundle does not animate a grey image")

    version, before = candidates.offer(tmp_path), state(events)
    with pytest.raises(EffectError, match="does not animate"):
        up(version, smoke=breaks)
    assert state(events) == before


@pytest.mark.parametrize(("version", "said"), [("999", "no such version"), ("1", "champion already")])
def test_what_is_no_candidate_is_refused(shared, events, version, said):
    before = state(events)
    with pytest.raises(MobileVDError, match=said):
        up(version)
    assert state(events) == before


def test_a_version_that_was_rolled_back_is_not_promoted_again_by_default(offer, events):
    first, second = offer(), offer()
    up(first), up(second), back()
    with pytest.raises(PromotionError, match="no new candidate"):
        up()
    assert up(second).to_version == second


def test_a_rollback_returns_to_the_champion_before_and_needs_no_training(offer, events):
    first, second, third = offer(), offer(), offer()
    up(first), up(second), up(third)
    assert (back().to_version, versions.aliases(MODEL)) == (second, {"champion": second, "previous": first})
    assert (back().to_version, versions.aliases(MODEL)) == (first, {"champion": first})
    assert [event["action"] for event in events] == ["promote"] * 3 + ["rollback"] * 2
    with pytest.raises(PromotionError, match="no such version to roll back to"):
        back()


def test_a_damaged_target_is_refused_and_the_next_good_one_offered(offer, events):
    first, second, third = offer(), offer(), offer()
    up(first), up(second), up(third)
    (candidates.stored(second) / "unet" / "weights.safetensors").write_text("damaged")
    before = state(events)
    with pytest.raises(PromotionError, match=f"rollback --version {first}"):
        back()
    assert state(events) == before
    assert back(first).to_version == first


def test_a_former_champion_that_was_sealed_anew_is_refused(offer, events):
    first, second = offer(), offer()
    up(first), up(second)
    _in_gates({"note": "another report"})(first)
    with pytest.raises(PromotionError, match=r"no digest of its own(.|\n)*no other former champion"):
        back()


def test_a_rollback_without_a_reason_or_to_a_stranger_is_refused(shared, events):
    before = state(events)
    with pytest.raises(PromotionError, match="needs a reason"):
        promote.former(MODEL, None, "")
    with pytest.raises(PromotionError, match="no such version to roll back to"):
        back("2")
    assert state(events) == before


def test_an_event_that_nobody_takes_is_told_and_the_switch_stands(offer, events):
    version = offer()
    with pytest.raises(MobileVDError, match=r"is champion(.|\n)*webhook(.|\n)*500") as caught:
        up(version, why="fail")
    assert "secret-path" not in str(caught.value)
    assert champion(promote.ledger(MODEL).history()) == version


def test_reconcile_repairs_aliases_that_somebody_moved(offer):
    first, second = offer(), offer()
    up(first), up(second)
    versions.point(MODEL, "champion", first)
    versions.point(MODEL, "previous", None)
    assert promote.reconcile(MODEL) == ["champion: 1 → 2", "previous: none → 1"]
    assert versions.aliases(MODEL) == {"champion": second, "previous": first}
    assert promote.reconcile(MODEL) == []


def test_aliases_end_at_a_switch_that_came_while_they_were_set(offer, monkeypatch):
    first, second = offer(), offer()
    point, raced = versions.point, []

    def slowly(model, alias, number):
        if not raced:
            raced.append(alias)
            up(second)
        point(model, alias, number)

    monkeypatch.setattr(versions, "point", slowly)
    up(first)
    assert versions.aliases(MODEL) == {"champion": second, "previous": first}


def test_a_planted_secret_reaches_neither_ledger_nor_event(offer, events):
    token = "ghp_" + "a1B2" * 9
    up(offer(), why=f"see https://me:hunter2@host/run with {token}, num_memory_tokens: 4")
    written = b"".join(path.read_bytes() for path in Path(versions.ledger_address(MODEL)).iterdir())
    assert b"https://host/run" in written
    assert b"num_memory_tokens: 4" in written
    everything = written + json.dumps(events).encode()
    assert b"hunter2" not in everything
    assert token.encode() not in everything


@pytest.fixture(scope="module")
def promoted(tmp_path_factory, hook):
    """What the processes of ``promotions.py`` did with ten versions, and the events: by where the ledger lay."""
    address, told = hook
    with pytest.MonkeyPatch.context() as patched:
        tests = os.pathsep.join(map(str, SCRIPT.parents[1:3]))  # the script's helpers, and this checkout
        patched.setenv("PYTHONPATH", tests)
        patched.setenv(alerts.WEBHOOK, address)
        patched.delenv(versions.LEDGER, raising=False)
        mlflow_store.use(tmp_path_factory.mktemp("processes"), patched)
        numbers = [candidates.offer(tmp_path_factory.mktemp("run")) for _ in range(10)]

        def ran() -> dict:
            told.clear()
            done = subprocess.run([sys.executable, str(SCRIPT), *numbers], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout.splitlines()[-1]) | {"numbers": numbers, "events": list(told)}

        found = {"folder": ran()}
        seaweed.use(patched)
        patched.setenv(versions.LEDGER, "s3://bucket/ledger-of-the-processes")
        yield found | {"s3": ran()}


@pytest.mark.slow
@pytest.mark.parametrize("place", ["folder", "s3"])
def test_of_promotions_at_once_one_wins_and_the_others_are_told(promoted, place):
    script = promoted[place]
    ended = script["together"]
    [line] = [told for told in ended["told"] if told.startswith("entry 1: ")]
    losers = [told for told in ended["told"] if told != line]
    assert len(losers) == 2
    assert all("Another switch came first" in told and line in told for told in losers)
    winner = script["events"][0]["to_version"]
    assert ended["state"] == {"champion": winner, "entries": 1, "aliases": {"champion": winner}}


@pytest.mark.slow
@pytest.mark.parametrize("place", ["folder", "s3"])
def test_a_kill_at_any_point_of_a_switch_leaves_one_champion_that_reconcile_finishes(promoted, place):
    script = promoted[place]
    before, made = script["together"]["state"]["champion"], 1
    for number, (point, code, (found, _, repaired)) in zip(script["numbers"][3:], script["killed"], strict=True):
        switched = point not in ("checked, nothing written", "entry written aside", "entry not yet sent")
        now, made = (number, made + 1) if switched else (before, made)
        assert (code, found["champion"], found["entries"]) == (-signal.SIGKILL, now, made), point
        assert (repaired["champion"], repaired["aliases"]["champion"], repaired["entries"]) == (now, now, made), point
        before = now
    assert [event["to_version"] for event in script["events"][1:]] == [script["numbers"][-1]]
