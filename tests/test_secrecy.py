"""What opens a door is taken out of text; what only sounds like it stays."""

import json

import pytest

from mobilevd.secrecy import sanitised, sanitised_facts

OPEN = {
    "hugging face": "hf_" + "aB3" * 11,
    "aws": "AKIA" + "ABCD" * 4,
    "github": "ghp_" + "a1B2" * 9,
    "gitlab": "glpat-" + "xY-9" * 5,
    "web token": "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl",
}


@pytest.mark.parametrize("kind", OPEN)
def test_a_token_of_a_known_shape_is_taken_out_wherever_it_stands(kind):
    said = sanitised(f"better FVD, pulled with {OPEN[kind]}, see run 7")
    assert OPEN[kind] not in said
    assert said.startswith("better FVD, pulled with ***")
    assert said.endswith(", see run 7")


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("password=hunter2 and on", "password=*** and on"),
        ("--api-key: hunter2-and-more", "--api-key: ***"),
        ("https://host/x?access_token=abcdef123&page=2", "https://host/x?access_token=***&page=2"),
        ("HF_TOKEN=whatever-it-is", "HF_TOKEN=***"),
        ("Authorization: Bearer abcdefghijklmnop1234", "Authorization: Bearer ***"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- end", "*** end"),
    ],
)
def test_a_value_that_is_called_a_secret_is_taken_out(written, kept):
    assert sanitised(written) == kept


@pytest.mark.parametrize(
    "written",
    [
        "num_memory_tokens: 4, mail me@host",
        "num_memory_tokens=4",
        "eos_token: 50256",
        "one token per frame; the secret of its speed is in the key frames",
        "sha256 " + "0123456789abcdef" * 4,
        "sk-learn, hf_hub, AKIA",
    ],
)
def test_what_only_sounds_like_a_secret_stays(written):
    assert sanitised(written) == written


def test_json_stays_json():
    told = {"api_token": "swordfish", "why": f"with {OPEN['github']}", "num_memory_tokens": 4, "token": 17, "n": None}
    clean = json.loads(sanitised(json.dumps(told)))
    assert clean == {"api_token": "***", "why": "with ***", "num_memory_tokens": 4, "token": 17, "n": None}


def test_facts_are_cleaned_at_any_depth_and_stay_json_even_where_a_key_is_cut_off(monkeypatch):
    monkeypatch.setenv("LAB_SECRET", 'open "sesame"')
    cut = "-----BEGIN RSA PRIVATE KEY-----\nMIIE, and the rest is lost"
    told = {
        "error": cut,
        "api_token": "two words",
        "made": {"why": [f"with {OPEN['github']}", 'open "sesame"']},
        "n": 4,
    }
    assert json.loads(json.dumps(sanitised_facts(told | {"ok": True, "at": None}))) == {
        "error": "***",
        "api_token": "***",
        "made": {"why": ["with ***", "***"]},
        "n": 4,
        "ok": True,
        "at": None,
    }


def test_what_the_environment_calls_a_secret_is_taken_out_and_the_rest_of_it_stays(monkeypatch):
    monkeypatch.setenv("LAB_SECRET", "open-sesame")
    monkeypatch.setenv("LAB_TOKEN", "open-sesame-twice")
    monkeypatch.setenv("SHORT_PASSWORD", "fvd")
    monkeypatch.setenv("LAB_HOME", "/srv/laboratory")
    assert sanitised("fvd of /srv/laboratory: open-sesame-twice, open-sesame") == "fvd of /srv/laboratory: ***, ***"
