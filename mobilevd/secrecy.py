"""What may be written down: text without what opens a door.

**Keeps** ``num_memory_tokens: 4``, mail addresses and digests stay as they are (``tests/test_secrecy.py``).
"""

import os
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

HIDDEN = "***"
NAME = r"(?:pass(?:word|wd|phrase)|secret|token|(?:api|access|private|encryption)[_-]?key)"
OF_ADDRESS = re.compile(r"(?<=://)[^/\s]*@")
NUMBER = r"-?\d[\d.]*\b|true\b|false\b|null\b"  # what JSON and YAML write bare: a count of tokens is no secret
NAMED = re.compile(
    rf"""((?i:\b[\w-]*{NAME})(?:\\?["'])?\s*(?:=\s*|:\s*(?!{NUMBER}))\\?["']?)([^\s"'&\\]{{6,}})""",
)
SHAPES = (
    r"\bhf_\w{16,}",  # Hugging Face
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",  # AWS
    r"\b(?:gh[opsur]_|github_pat_)\w{20,}",
    r"\b(?:glpat|pypi|sk|xox[a-z])-[\w-]{16,}",
    r"\bAIza[\w-]{30,}",  # Google
    r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+",  # a signed web token
    r"(?<=[Bb]earer )[\w.~+/=-]{16,}",
    r"(?s:-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z))",
)
SHAPED = re.compile("|".join(SHAPES))
CALLED = re.compile(rf"(?i){NAME}$")
SHORTEST = 8  # a shorter value of the environment would be found in innocent words


def sanitised(text: str) -> str:
    """``text`` without passwords of addresses, values that are called password, secret, token or key, tokens of
    well-known shapes, and whatever a variable of the environment with such a name holds.
    """
    return _without(text, _of_environment())


def sanitised_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """``facts`` as JSON takes them, every text in them ``sanitised``, and hidden whole where its key says secret.

    The environment is read once, so that a line of the log stays cheap; what comes out is JSON whatever was taken out.
    """
    secrets = _of_environment()
    return {_without(name, secrets): _cleaned(value, name, secrets) for name, value in facts.items()}


def _cleaned(value: Any, name: str, secrets: list[str]) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {_without(str(key), secrets): _cleaned(inner, str(key), secrets) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(inner, name, secrets) for inner in value]
    return HIDDEN if _is_called_secret(name) and str(value) else _without(str(value), secrets)


def _without(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return SHAPED.sub(HIDDEN, NAMED.sub(rf"\1{HIDDEN}", OF_ADDRESS.sub("", text)))


def _of_environment() -> list[str]:
    """Longest first, for one may hold another."""
    named = (os.environ.get(name, "") for name in os.environ if _is_called_secret(name))
    return sorted({value for value in named if len(value) >= SHORTEST}, key=len, reverse=True)


@lru_cache(maxsize=4096)  # the names of an environment stay the same from line to line
def _is_called_secret(name: str) -> bool:
    return CALLED.search(name) is not None
