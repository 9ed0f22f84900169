"""Every line carries the ids of its task, as JSON where a machine reads it, and no secret."""

import json
import logging
import timeit

import pytest

from mobilevd import journal

IDS = {"run": "TrainFlow/7", "stage": "finetune", "task": "TrainFlow/7/finetune/3"}


@pytest.fixture(autouse=True)
def restored():
    kept = (journal.log.handlers, journal.log.propagate, journal.log.level)
    yield
    journal.log.handlers, journal.log.propagate = kept[:2]
    journal.log.setLevel(kept[2])


def test_a_line_is_json_with_the_ids_and_the_facts(monkeypatch, capsys):
    monkeypatch.setenv(journal.FORMAT, "json")
    journal.start(IDS)
    journal.say("stage ended", seconds=1.5)
    logging.getLogger("mobilevd.video.latents").warning("%s is damaged", "a.safetensors")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.items() >= (IDS | {"event": "stage ended", "level": "info", "seconds": 1.5}).items()
    assert second.items() >= (IDS | {"event": "a.safetensors is damaged", "level": "warning"}).items()
    assert first["at"].endswith("Z")


def test_for_people_it_is_a_sentence(monkeypatch, capsys):
    monkeypatch.delenv(journal.FORMAT, raising=False)
    journal.start(IDS)
    journal.say("stage ended", seconds=1.5)
    assert capsys.readouterr().err == "stage ended: seconds 1.5\n"


@pytest.mark.parametrize("form", ["json", "words"])
def test_a_password_in_an_address_is_in_no_line(monkeypatch, capsys, form):
    monkeypatch.setenv(journal.FORMAT, form)
    journal.start(IDS)
    journal.say("asked https://user:planted@host/x", where="https://user:planted@host/y")
    said = capsys.readouterr().err
    assert "planted" not in said
    assert "https://host/x" in said


@pytest.mark.parametrize("form", ["json", "words"])
def test_no_secret_of_any_kind_is_in_a_line(monkeypatch, capsys, form):
    hidden = ("s3cretvalue123", "hf_" + "aB3" * 11, "u:pw@", "swordfish")
    leak = "HTTPError: 401 token={} {} for https://{}h/x".format(*hidden)
    monkeypatch.setenv("QAIHUB_API_TOKEN", hidden[0])
    monkeypatch.setenv(journal.FORMAT, form)
    journal.start(IDS)
    journal.say(f"asked {leak}", error=leak, api_token=hidden[3], tried=[leak], seconds=1.5)
    said = capsys.readouterr().err
    assert said.count("HTTPError: 401 token=*** *** for https://h/x") == 3
    assert [secret for secret in hidden if secret in said] == []
    if form == "json":
        assert json.loads(said).items() >= (IDS | {"seconds": 1.5, "api_token": "***"}).items()


def test_a_line_costs_little_in_a_large_environment(monkeypatch):
    for number in range(300):
        monkeypatch.setenv(f"A_SERVICE_WITH_A_LONG_NAME_{number}_PORT", "tcp://10.0.0.1:443")
    record = logging.LogRecord("mobilevd", logging.INFO, "", 1, "stage ended", (), None)
    record.facts = {"seconds": 1.5, "error": "x" * 200}
    line = journal.Lines(IDS)
    assert min(timeit.repeat(lambda: line.format(record), number=10, repeat=10)) / 10 < 0.005
