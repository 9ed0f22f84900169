"""``mobilevd …`` on the way to a phone: preflight, estimate, quantizers, phone-bundle."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mobilevd.cli_table import Json, show
from mobilevd.device_settings import Effort

app = typer.Typer()
Rounding = Literal["adaround", "seq_mse"]
Runtime = Literal["compiled", "onnx", "tflite"]


@app.command()
def preflight(
    model: Annotated[str, typer.Argument(help="An ONNX graph, or a model: a bundle's folder, s3://…, models:/…")],
    device: Annotated[str, typer.Option(help="As in profile.devices of a recipe.")] = "snapdragon-8-gen-3",
    as_json: Json = False,
) -> None:
    """What a device would not take of a model's graphs, and its share of the FLOPs; ends with code 1 if anything."""
    from mobilevd.stages import preflights

    rows = preflights.rows(model, device)
    show(rows if as_json else preflights.shown(rows), as_json)
    for line in (f"{row['graph']}: {line}" for row in rows for line in preflights.lines(row) if not as_json):
        typer.echo(line)
    if any(row["findings"] for row in rows):
        raise typer.Exit(1)


@app.command()
def estimate(
    model: Annotated[str, typer.Argument(help="An ONNX graph, or a model: a bundle's folder, s3://…, models:/…")],
    runtime: Annotated[Runtime, typer.Option(help="What runs it there.")] = "compiled",
    as_json: Json = False,
) -> None:
    """How long a Snapdragon 8 Gen 3 might take for one run of each graph of a model: network, encoders, decoder.

    Nothing is run. What is larger than the networks that were measured is marked as extrapolated.
    """
    from mobilevd.stages import estimates

    rows = estimates.rows(model, runtime)
    show(rows if as_json else estimates.shown(rows), as_json)
    for line in estimates.lines(rows) if not as_json else ():
        typer.echo(line)
    typer.echo(f"estimates for {rows[0]['device']}: nothing was measured (docs/device.md)", err=True)


@app.command("phone-bundle")
def phone_bundle(
    model: Annotated[str, typer.Argument(help="A model: a bundle's folder, s3://…, models:/…")],
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    npu: Annotated[bool, typer.Option("--npu", help="Compile for the Snapdragon 8 Gen 3, and check it.")] = False,
    tiny_decoder: Annotated[Path | None, typer.Option(help="TAESD's weights, for its decoder (SVD only).")] = None,
    effort: Annotated[Effort, typer.Option(help="With --npu: how long to look for a faster graph.")] = "default",
    as_json: Json = False,
) -> None:
    """What goes to a phone: quantized graphs, an example without torch, the NPU's binary, digests and sizes."""
    from mobilevd.stages import phone_bundle as stage

    show(stage.write(model, out, npu, tiny_decoder, effort), as_json)


@app.command()
def quantizers(
    model: Annotated[str, typer.Argument(help="A model: a bundle's folder, s3://…, models:/…")],
    out: Annotated[Path, typer.Argument(help="The folder to make: a graph of every quantizer, and report.json.")],
    rounding: Annotated[
        Rounding | None, typer.Option(help="aimet W8A16 and W8A8 once more, with the weights rounded so.")
    ] = None,
    iterations: Annotated[int, typer.Option(help="Of adaround, per layer.", min=1)] = 10_000,
    budget_db: Annotated[float | None, typer.Option(help="Mixed precision so far above the noise, too.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only rows with this in their name, e.g. mixed; may be given twice.")
    ] = None,
    as_json: Json = False,
) -> None:
    """One student under every quantizer on its own run's clips and seeds: SQNR, MB, noisiest layers, FVD."""
    from mobilevd.stages import quantizers as stage

    ways = stage.ways(rounding, iterations, budget_db, only or ())
    rows = stage.compare(model, out, ways)
    show(rows if as_json else stage.shown(rows), as_json)
    for line in stage.lines(rows) if not as_json else ():
        typer.echo(line)
