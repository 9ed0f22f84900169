"""``mobilevd gate``: is what was measured good enough? A report against a list of gates; pass, fail or undecided."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def gate(
    report: Annotated[Path, typer.Argument(help="report.json of evaluate or ucf101 score, or a run's gates.json.")],
    gates: Annotated[Path, typer.Option(help="A YAML file with a list under gates:, such as a recipe.")],
    contender: Annotated[str, typer.Option("--as", help="What the gates call an evaluation's folder.")] = "student",
    teacher: Annotated[Path | None, typer.Option(help="The teacher's report, of the same protocol.")] = None,
    champion: Annotated[Path | None, typer.Option(help="The champion's report, or its gates.json.")] = None,
    model: Annotated[str | None, typer.Option(help="The model that would ship: is the report its own?")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Hold a report's figures against gates; ends with code 1 unless every one of them passed."""
    from mobilevd import params
    from mobilevd.stages import gate_reports, plan

    verdict = gate_reports.run(report, params.gates(gates), contender, teacher, champion, model)
    rows = [asdict(row) for row in verdict.rows]
    word = "passed" if verdict.passed else "rejected"
    lines = [f"verdict   {word}", *(f"  {plan.gate_line(row)}" for row in rows)]
    typer.echo(json.dumps({"verdict": word, "rows": rows}, indent=2) if as_json else "\n".join(lines))
    raise typer.Exit(not verdict.passed)
