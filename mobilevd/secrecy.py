"""What may be written down: text without what opens a door.

**Keeps** ``num_memory_tokens: 4``, mail addresses and digests stay as they are (``tests/test_secrecy.py``).
"""

import os
import re

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
SHORTEST = 8  # a shorter value of the environment would be found in innocent words


def sanitised(text: str) -> str:
    """``text`` without passwords of addresses, values that are called password, secret, token or key, tokens of
    well-known shapes, and whatever a variable of the environment with such a name holds.
    """
    for secret in _of_environment():
        text = text.replace(secret, HIDDEN)
    return SHAPED.sub(HIDDEN, NAMED.sub(rf"\1{HIDDEN}", OF_ADDRESS.sub("", text)))


def _of_environment() -> list[str]:
    """Longest first, for one may hold another."""
    named = (value for name, value in os.environ.items() if re.search(rf"(?i){NAME}$", name))
    return sorted({value for value in named if len(value) >= SHORTEST}, key=len, reverse=True)
