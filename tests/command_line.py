"""``mobilevd`` as it is typed: what a command that succeeds prints, and what one that fails says."""

import sys

import pytest
from typer.testing import CliRunner

from mobilevd import cli


def run(*words) -> str:
    """What a command that succeeds prints."""
    done = CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(monkeypatch, capsys, *words) -> tuple[str, int]:
    """What a failing command says on stderr, and its exit code; as the installed script runs."""
    monkeypatch.setattr(sys, "argv", ["mobilevd", *(str(word) for word in words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    return said.err, ended.value.code
