"""The recipe as the command line gives it: Metaflow's parser gets its text alone, and errors would have tracebacks."""

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import user  # noqa: F401  (before metaflow)
from metaflow.exception import MetaflowException

from mobilevd import params
from mobilevd.errors import MobileVDError

OPTION = ("--config", "recipe")
DEFAULT = str(Path(__file__).resolve().parent.parent / "params.yaml")


class BadRecipe(MetaflowException):
    """A recipe's own error, shown without a traceback: its first line above the others."""

    def __init__(self, error: MobileVDError):
        self.headline, _, rest = str(error).partition("\n")
        super().__init__(rest)


def recipe(text: str) -> dict[str, Any]:
    """Metaflow's parser of ``--config recipe FILE``. Errors: BadRecipe with the file's name."""
    try:
        return params.parse(text, file_of(text, sys.argv))
    except MobileVDError as error:
        raise BadRecipe(error) from None


def file_of(text: str, words: list[str]) -> str:
    """The file of that text, the one on the command line or the default; the option where it is neither's."""
    named = [file for option, file in zip(pairwise(words), words[2:], strict=False) if option == OPTION]
    same = (name for name in (*named, DEFAULT) if Path(name).is_file() and Path(name).read_text("utf-8") == text)
    return next(same, " ".join(OPTION))
