"""``mobilevd ucf101 …``: the papers' protocol on a UCF-101 folder; a manifest of clips, then a model's score on it."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help=__doc__, no_args_is_help=True)
Data = Annotated[Path, typer.Argument(help="The folder that holds the classes' folders.")]


@app.command("list")
def list_clips(
    data: Data,
    out: Annotated[Path, typer.Argument(help="The manifest to write.")],
    split: Annotated[str, typer.Option(help="An official split.")] = "testlist01",
    fps: Annotated[float, typer.Option(help="7 or 25 in the papers.", min=0.1)] = 7.0,
    frames: Annotated[int, typer.Option(help="Frames per clip.", min=9, max=64)] = 14,
    width: Annotated[int, typer.Option(help="512 or 1024: what the model makes.", min=64)] = 512,
    height: Annotated[int, typer.Option(help="256 or 576.", min=64)] = 256,
    at_most: Annotated[int | None, typer.Option(help="So many videos, spread evenly over the split.", min=2)] = None,
) -> None:
    """List one clip of every video of a split, with digests, so that others evaluate on the same."""
    from mobilevd.stages.compare import clip_of
    from mobilevd.video import ucf101

    found = ucf101.listed(data, split, clip_of(frames, fps, width, height), at_most)
    found.save(out)
    typer.echo(f"{out}: {len(found.clips)} clips, {len(found.left_out)} videos left out")


@app.command()
def score(
    manifest: Annotated[Path, typer.Argument(help="What `mobilevd ucf101 list` wrote.")],
    data: Data,
    model: Annotated[
        str, typer.Option(help="A bundle: its folder, s3://…, models:/…; with --teacher a base, as in a recipe.")
    ],
    out: Annotated[Path, typer.Option(help="Where clips' scores and report.json go; a killed run goes on there.")],
    teacher: Annotated[bool, typer.Option("--teacher", help="Sample the base with 25 steps, with guidance.")] = False,
    seed: Annotated[int, typer.Option(help="Chooses every clip's noise.", min=0)] = 0,
    guidance_above: Annotated[
        float,
        typer.Option(help="With --teacher: no guidance at this noise level and below; 1 for the pocket base.", min=0),
    ] = 0.0,
) -> None:
    """FVD, KVD and motion of a model on the listed clips, everything at SF-V's 320x240 before I3D; prints JSON."""
    from mobilevd.errors import MobileVDError
    from mobilevd.evaluation import report
    from mobilevd.stages import compare, models, ucf101

    if guidance_above and not teacher:
        got = f"--guidance-above {guidance_above:g}"
        raise MobileVDError(
            "A student has no guidance", got=got, allowed="with --teacher alone", where="--guidance-above"
        )
    chosen = model if teacher else str(models.folder(model))
    made = ucf101.run(ucf101.Job(str(manifest), str(data), chosen, teacher, seed, guidance_above), out)
    typer.echo(json.dumps(compare.row(made), indent=2))
    for note in report.notes(made):
        typer.echo(f"note: {note}", err=True)
