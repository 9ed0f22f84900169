"""``mobilevd cost`` and ``mobilevd plan``: what a network, or a whole recipe, asks for; counted, nothing is run."""

from pathlib import Path
from typing import Annotated

import typer

from mobilevd.cli_table import Json, show
from mobilevd.errors import MobileVDError

COUNTED = ("--ladder", "--ablations", "--model")
GOES_WITH = {  # option → those of COUNTED that it means something for
    "--markdown": ("--ladder", "--ablations"),
    "--with-encoders": ("--ladder",),
    **dict.fromkeys(("--width", "--height", "--downscale"), ("--model",)),
}
APART = (("--markdown", "--split"), ("--markdown", "--with-encoders"), ("--markdown", "--json"))
APART_IN_TABLES = ("--split", "--with-encoders")
TOGETHER = "--markdown with --ladder or --ablations, by itself; --width, --height and --downscale with --model; "
TOGETHER += "--with-encoders with --ladder, and with --split in --json alone"


def cost(
    ladder: Annotated[bool, typer.Option("--ladder", help="The paper's rows at SVD's full size.")] = False,
    ablations: Annotated[bool, typer.Option("--ablations", help="The paper's ablations, with their recipes.")] = False,
    model: Annotated[Path | None, typer.Option(help="A network's folder (of a bundle, or of a run's stage).")] = None,
    width: Annotated[int | None, typer.Option(help="Clip width in pixels, with --model (default: 512).", min=1)] = None,
    height: Annotated[
        int | None, typer.Option(help="Clip height in pixels, with --model (default: 256).", min=1)
    ] = None,
    downscale: Annotated[
        int | None,
        typer.Option(help="Pixels a latent covers on each axis, with --model (default: as its base says).", min=1),
    ] = None,
    split: Annotated[bool, typer.Option("--split", help="By kind of layer.")] = False,
    with_encoders: Annotated[
        bool, typer.Option("--with-encoders", help="Add autoencoder and image encoder to a clip, with --ladder.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The documents' table of ladder or ablations.")] = False,
    as_json: Json = False,
) -> None:
    """FLOPs and parameters: of the paper's ladder or ablations, or of one network on disk; nothing is run."""
    given = {"--ladder": ladder, "--ablations": ablations, "--model": model, "--width": width, "--height": height}
    given |= {"--downscale": downscale, "--split": split, "--with-encoders": with_encoders}
    given |= {"--markdown": markdown, "--json": as_json}
    _check([option for option, value in given.items() if value is not None and value is not False])
    from mobilevd.stages import cost_tables, costs

    if ladder:
        rows = costs.ladder_rows(with_encoders)
    else:
        rows = costs.ablation_rows() if ablations else [_model_row(model, width or 512, height or 256, downscale)]
    if markdown:
        typer.echo(cost_tables.ladder_markdown(rows) if ladder else cost_tables.ablations_markdown(rows))
    elif as_json:
        show(costs.data_rows(rows, split, with_encoders), as_json)
    else:
        show(cost_tables.split_table(rows) if split else cost_tables.table(rows), as_json)


def plan(
    recipe: Annotated[Path | None, typer.Option(help="The recipe (default: params.yaml).")] = None,
    clips: Annotated[int | None, typer.Option(help="How many clips (default: the recipe's least).", min=1)] = None,
    tflops: Annotated[
        float | None, typer.Option(help="What one device reaches (default: a probe here).", min=1e-6)
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(
            help="Devices in a training stage, each with the batch of the recipe (default: its machines' gpus).", min=1
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Time, device-time, memory and disk of every stage, before anything is run, and what that rests on."""
    found = recipe or _own_recipe()
    from mobilevd import params
    from mobilevd.stages import forecast

    asked = params.load(found)
    count = clips or asked.prepare.min_train_clips + asked.prepare.min_validation_clips
    speed = forecast.Speed(tflops, "as given", devices) if tflops else forecast.probe(devices)
    rows = forecast.rows(asked, speed, count)
    show(rows if as_json else forecast.table(rows), as_json)
    if not as_json:
        typer.echo("\n".join(forecast.assumptions(asked, speed, count)))


def _check(given: list[str]) -> None:
    """Errors: MobileVDError unless one thing is counted, and every option has an effect."""
    counted = [option for option in given if option in COUNTED]
    if len(counted) != 1:
        allowed = f"one of {', '.join(COUNTED)}"
        raise MobileVDError("Say what to count", got=", ".join(counted) or "none of them", allowed=allowed)
    pairs = [(option, counted[0]) for option in given if counted[0] not in GOES_WITH.get(option, COUNTED)]
    apart = APART if "--json" in given else (*APART, APART_IN_TABLES)
    pairs += [pair for pair in apart if {*pair} <= {*given}]
    if pairs:
        got = ", ".join(" with ".join(pair) for pair in pairs)
        raise MobileVDError("These options do not go together", got=got, allowed=TOGETHER)


def _model_row(model: Path, width: int, height: int, side: int | None) -> dict:
    from mobilevd.stages import costs

    if not side and not costs.told_downscale(model):
        assumed = f"nothing at {model} tells how many pixels a latent covers: {costs.SVD_DOWNSCALE}, as SVD's, assumed"
        typer.echo(f"note: {assumed}; --downscale N counts others", err=True)
    return costs.model_row(model, width, height, side)


def _own_recipe() -> Path:
    """params.yaml of the working directory, else of the project. Errors: MobileVDError without either."""
    from mobilevd.places import project_root

    places = (Path("params.yaml"), project_root() / "params.yaml")
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        got = f"no params.yaml in {Path.cwd()}"
        raise MobileVDError("No recipe was named", got=got, allowed="a recipe's file", where="--recipe")
    return found
