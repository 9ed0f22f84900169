"""``mobilevd registry``: history as a table, as data and at a time; refusals end with code 1, without a traceback."""

import json
from pathlib import Path

import candidates
import command_line
import mlflow_store
import pytest

from mobilevd.registry import versions
from mobilevd.stages import promote

NO_MODEL = "There is no such model\n  got:     mobilvd\n  allowed: mobilevd\n  where:   --model\n"


@pytest.fixture(scope="module", autouse=True)
def switched(tmp_path_factory):
    """Two versions, promoted one after the other, and a third that is damaged."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv(versions.LEDGER, raising=False)
        patched.setenv("COLUMNS", "160")
        mlflow_store.use(tmp_path_factory.mktemp("store"), patched)
        for _ in range(2):
            wanted = promote.candidate("mobilevd", candidates.offer(tmp_path_factory.mktemp("run")), "tried")
            promote.run("mobilevd", wanted, lambda folder: None)
        damaged = candidates.offer(tmp_path_factory.mktemp("run"))
        (candidates.stored(damaged) / "unet" / "weights.safetensors").write_text("x")
        yield


def run(*words: str) -> str:
    return command_line.run("registry", *words)


def refused(monkeypatch, capsys, *words: str) -> str:
    said, code = command_line.refused(monkeypatch, capsys, "registry", *words)
    assert code == 1
    return said


def test_history_is_a_table_that_ends_with_the_champion():
    told = run("history")
    assert "tried" in told
    assert told.rstrip().endswith("champion now: 2")


def test_history_as_data_tells_everything_an_entry_holds():
    told = json.loads(run("history", "--json"))
    assert told["champion"] == "2"
    written = [json.loads(path.read_text()) for path in sorted(Path(versions.ledger_address("mobilevd")).iterdir())]
    assert told["entries"] == written


def test_history_at_a_time_tells_who_was_champion_then():
    first, second = json.loads(run("history", "--json"))["entries"]
    assert json.loads(run("history", "--json", "--at", first["at"]))["champion"] == "1"
    assert json.loads(run("history", "--json", "--at", second["at"]))["champion"] == "2"
    assert run("history", "--at", "2001-01-01").rstrip().endswith("champion at 2001-01-01T00:00:00+00:00: none")


def test_model_that_never_was_promoted_has_no_champion_and_nothing_to_reconcile(tmp_path, monkeypatch):
    mlflow_store.use(tmp_path / "other", monkeypatch)
    candidates.offer(tmp_path / "run")
    assert run("history").rstrip().endswith("champion now: none")
    assert run("reconcile") == "aliases and ledger agree\n"


def test_ledger_alone_tells_a_champion_where_mlflow_does_not_answer(monkeypatch):
    monkeypatch.setenv(versions.LEDGER, str(Path(versions.ledger_address("mobilevd")).parent))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert run("history").rstrip().endswith("champion now: 2")


def test_reconcile_says_what_it_changed():
    versions.point("mobilevd", "champion", "1")
    assert run("reconcile") == "champion: 1 → 2\n"
    assert run("reconcile") == "aliases and ledger agree\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("history", "--at", "yesterday"), "This is no time"),
        (("history", "--model", "../x"), "No model has such a name"),
        (("history", "--model", "mobilvd"), NO_MODEL),
        (("reconcile", "--model", "mobilvd"), NO_MODEL),
        (("promote",), "A file changed"),
        (("promote", "--version", "2"), "champion already"),
        (("rollback",), "needs a reason"),
        (("rollback", "--why", "it flickers", "--version", "3"), "no such version to roll back to"),
    ],
)
def test_a_refusal_ends_with_an_error_code_and_changes_nothing(monkeypatch, capsys, words, said):
    before = run("history", "--json")
    assert said in refused(monkeypatch, capsys, *words)
    assert run("history", "--json") == before
    assert versions.aliases("mobilevd") == {"champion": "2", "previous": "1"}
