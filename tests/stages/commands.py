"""Runs ``mobilevd`` commands (JSON: lists of words) one after the other; prints what each said, and what was imported
when it said it: a script of test_pending.py."""

import io
import json
import sys
from contextlib import redirect_stderr, suppress
from unittest.mock import patch

from mobilevd import cli

HEAVY = ("torch", "mlflow")


class Heard(io.StringIO):
    """Standard error that remembers what was imported when each line came."""

    def __init__(self):
        super().__init__()
        self.said = []

    def write(self, text: str) -> int:
        self.said.append([text, [name for name in HEAVY if name in sys.modules]])
        return super().write(text)


def told(words: list[str]) -> list:
    """What a command that is refused said, line by line."""
    heard = Heard()
    with patch.object(sys, "argv", ["mobilevd", *words]), redirect_stderr(heard), suppress(SystemExit):
        cli.main()
    return [line for line in heard.said if line[0].strip()]


if __name__ == "__main__":
    commands = json.loads(sys.argv[1])
    print(json.dumps([told(words) for words in commands]))
