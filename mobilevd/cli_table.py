"""How commands print figures: as a table for people, or with --json as data."""

import json
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def show(rows: list[dict], as_json: bool) -> None:
    """Print rows of the same keys."""
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(*(Column(name, overflow="fold") for name in rows[0]))
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    Console().print(table)


def _cell(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)
