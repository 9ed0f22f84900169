"""A dead letter lies beside its run and is told to a real receiver; one that fails hides nothing."""

import json
import logging

import pytest
import receiver
import seaweed

from mobilevd import alerts
from mobilevd.errors import MobileVDError

FACTS = {"task": "TrainFlow/7/finetune/3", "error": "EffectError: nothing saved\nmore", "attempts": 3, "at": 1.0}


@pytest.fixture
def told(monkeypatch):
    """What a webhook on this machine was told; it answers with ``told.code``."""

    class Told(list):
        code = 200

    told = Told()

    def take(_, body):
        told.append(json.loads(body))
        return told.code

    with receiver.listening(take) as address:
        monkeypatch.setenv(alerts.WEBHOOK, f"{address}/planted")
        yield told


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_a_dead_letter_lies_beside_its_run_and_is_told(told, tmp_path, monkeypatch, where):
    seaweed.use(monkeypatch)
    runs = str(tmp_path) if where == "folder" else f"s3://bucket/letters/{tmp_path.name}"
    address = alerts.dead_letter(f"{runs}/TrainFlow/7", "finetune-3", FACTS)
    assert alerts.letters(runs) == [FACTS | {"address": address}]
    [message] = told
    assert message["text"] == "TrainFlow/7/finetune/3 failed for good: EffectError: nothing saved"
    assert message.items() >= FACTS.items()


SECRETS = ("s3cretvalue123", "hf_" + "aB3" * 11, "u:pw@")
LEAK = "HTTPError: 401 token={} {} for https://{}h/x".format(*SECRETS)


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_no_secret_is_in_a_stored_letter_or_in_a_posted_body(told, tmp_path, monkeypatch, where):
    seaweed.use(monkeypatch)
    monkeypatch.setenv("QAIHUB_API_TOKEN", SECRETS[0])
    runs = str(tmp_path) if where == "folder" else f"s3://bucket/secrets/{tmp_path.name}"
    leaking = FACTS | {"error": LEAK, "again": f"resume {SECRETS[0]}", "made": {"funnel": {"why": LEAK}}}
    alerts.dead_letter(f"{runs}/TrainFlow/7", "finetune-3", leaking)
    assert alerts.tell(LEAK, why=[LEAK])
    [letter] = alerts.letters(runs)
    written = json.dumps(letter) + json.dumps(list(told))
    assert len(told) == 2
    assert [secret for secret in SECRETS if secret in written] == []
    assert letter["error"] == "HTTPError: 401 token=*** *** for https://h/x"
    assert letter.items() >= {key: value for key, value in FACTS.items() if key != "error"}.items()


def test_no_secret_is_in_the_line_of_an_alert_that_was_not_taken(told, caplog, monkeypatch):
    monkeypatch.setenv("QAIHUB_API_TOKEN", SECRETS[0])
    told.code = 500
    with caplog.at_level(logging.WARNING):
        assert not alerts.tell(LEAK)
    assert "HTTPError: 401 token=***" in caplog.text
    assert [secret for secret in SECRETS if secret in caplog.text] == []


def test_for_people_a_letter_says_when_which_why_and_how_to_go_on():
    said = alerts.told(FACTS | {"again": "python flows/train_flow.py resume", "address": "/runs/7.json"})
    assert said.splitlines() == [
        "1970-01-01 00:00 UTC  TrainFlow/7/finetune/3, 3 attempts",
        "  EffectError: nothing saved",
        "  more",
        "  to go on: python flows/train_flow.py resume",
        "  whole: /runs/7.json",
    ]


def test_a_webhook_that_fails_stops_nothing_and_its_address_is_in_no_line(told, caplog, monkeypatch, tmp_path):
    told.code = 500
    assert not alerts.tell("something")
    monkeypatch.setenv(alerts.WEBHOOK, "http://127.0.0.1:1/planted")
    alerts.dead_letter(str(tmp_path / "F" / "7"), "finetune-3", FACTS)
    monkeypatch.setenv(alerts.WEBHOOK, "file:///etc/planted")
    assert not alerts.tell("something")
    assert len(caplog.records) == 3
    assert "planted" not in caplog.text
    assert len(alerts.letters(str(tmp_path))) == 1


def test_without_a_webhook_nobody_is_told(monkeypatch):
    monkeypatch.delenv(alerts.WEBHOOK, raising=False)
    assert alerts.tell("something") is False


def test_runs_that_are_nowhere_are_not_runs_without_failures(tmp_path):
    with pytest.raises(MobileVDError, match="There are no runs"):
        alerts.letters(str(tmp_path / "nowhere"))
