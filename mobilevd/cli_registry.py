"""``mobilevd registry …``: which version is champion, since when and why; promote, roll back, reconcile."""

import json
from datetime import UTC, datetime
from typing import Annotated

import typer

from mobilevd.errors import MobileVDError
from mobilevd.progress import say

app = typer.Typer(help=__doc__, no_args_is_help=True)
Model = Annotated[str, typer.Option(help="The registered model's name.")]
Why = Annotated[str, typer.Option(help="The reason, for the ledger; a rollback needs one.")]
COLUMNS = ("number", "at", "action", "from_version", "to_version", "who", "why")


@app.command()
def history(
    model: Model = "mobilevd",
    at: Annotated[str | None, typer.Option(help="Only what was known then: 2026-01-31 or 2026-01-31T12:00Z.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Every switch, oldest first, and the version that is champion, or was at a time."""
    from mobilevd.registry.ledger import champion, until
    from mobilevd.stages import promote

    moment = _moment(at) if at else None
    entries = promote.history(model)
    entries = until(entries, moment) if moment else entries
    rows = [entry.model_dump(mode="json") for entry in entries]
    if as_json:
        typer.echo(json.dumps({"champion": champion(entries), "entries": rows}, indent=2))
        return
    _table(rows)
    typer.echo(f"champion {'at ' + moment.isoformat() if moment else 'now'}: {champion(entries) or 'none'}")


@app.command()
def reconcile(model: Model = "mobilevd") -> None:
    """Set MLflow's aliases to what the ledger says, after a crash between the two."""
    from mobilevd.stages import promote

    typer.echo("\n".join(promote.reconcile(model)) or "aliases and ledger agree")


@app.command()
def promote(
    version: Annotated[str | None, typer.Option(help="The candidate (default: the newest version).")] = None,
    why: Why = "",
    model: Model = "mobilevd",
) -> None:
    """Check a candidate and make it the champion."""
    from mobilevd.stages import promote as stage

    say(f"promoting {f'version {version}' if version else 'the newest version'} of {model}: looking it up")
    typer.echo(stage.run(model, stage.candidate(model, version, why)).line)


@app.command()
def rollback(
    version: Annotated[str | None, typer.Option(help="A former champion (default: the one before this).")] = None,
    why: Why = "",
    model: Model = "mobilevd",
) -> None:
    """Check a former champion and make it the champion again; nothing is retrained."""
    from mobilevd.stages import promote as stage

    say(f"rolling {model} back to {f'version {version}' if version else 'the champion before'}: looking it up")
    typer.echo(stage.run(model, stage.former(model, version, why)).line)


def _moment(text: str) -> datetime:
    """A time without a zone is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise MobileVDError("This is no time", got=text, allowed="2026-01-31T12:00Z", where="--at") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _table(rows: list[dict]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(*(Column(name, overflow="fold") for name in COLUMNS))
    for row in rows:
        table.add_row(*(str(row[name] or "–") for name in COLUMNS))
    Console().print(table)
