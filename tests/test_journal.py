"""Every line carries the ids of its task, as JSON where a machine reads it, and no password."""

import json
import logging

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
