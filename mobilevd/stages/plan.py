"""Before the first stage and after the last: where a run writes, what it will do, how it ended."""

import os
import re
from pathlib import Path

from mobilevd.errors import RecipeError
from mobilevd.packages import project_root
from mobilevd.params import Recipe
from mobilevd.settings import Optim


def run_folder(flow: str, run_id: str) -> str:
    """``<flow>/<run id>`` under $MOBILEVD_RUNS (a folder or ``s3://…``), or under ``runs`` in the project."""
    return f"{runs()}/{flow}/{run_id}"


def runs() -> str:
    """$MOBILEVD_RUNS, or ``runs`` in the project."""
    return os.environ.get("MOBILEVD_RUNS") or str(project_root() / "runs")


def profile_folder(device: str) -> str:
    """The name of a device's folder in a run: ``profile-`` and its name in letters that every file system takes."""
    return f"profile-{re.sub(r'[^a-z0-9.]+', '-', device.lower()).strip('-')}"


def announce(recipe: Recipe, folder: str) -> str:
    """Check the recipe against its base, its tools, its devices and its gates, and say what will run.

    Errors: MobileVDError, of the kind that names what does not fit.
    """
    from mobilevd.stages import figures, rehearsal
    from mobilevd.svd import base as bases
    from mobilevd.training.checkpoints import check_resume

    for checkpoints in recipe.training.resume.values():
        check_resume(Path(checkpoints))
    _check_tools(recipe)
    _check_apart(recipe.profile.devices)
    _check_frames(recipe)
    figures.check(recipe)
    base, clip = bases.load(recipe.base), recipe.clip
    base.check_clip(clip)
    rehearsal.rehearse(recipe, base)
    lines = [
        f"recipe {recipe.name} ({recipe.digest[:12]}) on base {recipe.base} ({base.digest[:12]}), seed {recipe.seed}",
        f"clips of {clip.frames} frames at {clip.fps:g} fps, {clip.width}x{clip.height}",
        f"this run writes to {folder}",
    ]
    return "\n".join([*lines, *_rejections(recipe)])


def _rejections(recipe: Recipe) -> list[str]:
    """A warning for each gate on a phone that cannot be measured here, where profiling runs here too."""
    from mobilevd.device import targets
    from mobilevd.stages import figures, profile

    if "profile" in _elsewhere(recipe):
        return []
    why = {device: profile.lacking(targets.find(device)) for device in recipe.profile.devices}
    on = [(metric, figures.device_of(metric, recipe)) for gate in recipe.gates for metric in figures.asked(gate)]
    head = "WARNING: this run will be rejected: the gate on"
    return [f"{head} {metric} will fail as {why[device]}" for metric, device in on if device and why[device]]


def _check_apart(devices: tuple[str, ...]) -> None:
    """Errors: RecipeError for devices that would write to one folder, the same one twice among them."""
    folders = [profile_folder(device) for device in devices]
    if shared := [device for device, folder in zip(devices, folders, strict=True) if folders.count(folder) > 1]:
        raise RecipeError(
            "Two devices would have one folder in the run",
            got=", ".join(shared),
            allowed="each device once, and names that differ in more than signs and capitals",
            where="profile.devices in the recipe",
        )


def _check_tools(recipe: Recipe) -> None:
    """Errors: MobileVDError for an unknown device, or a tool that is missing here, where its step runs here too."""
    from mobilevd.device import targets
    from mobilevd.training import optim

    kinds = {targets.find(device).kind for device in recipe.profile.devices}
    elsewhere = _elsewhere(recipe)
    if recipe.quantize.quantizer == "aimet" and "quantize" not in elsewhere:
        from mobilevd.device import aimet

        aimet.require_installed()
    if "emulator" in kinds and "profile" not in elsewhere:
        from mobilevd.device import htp

        htp.require_installed()
    for step, settings in _optimizers(recipe):
        if step not in elsewhere:
            optim.require_installed(settings, step)


def _elsewhere(recipe: Recipe) -> set[str]:
    """The steps that run in an image of their own: what is there is not known here."""
    return {step for step, machine in recipe.machines.steps.items() if machine.image is not None}


def _optimizers(recipe: Recipe) -> list[tuple[str, Optim]]:
    """Every optimizer of the recipe, beside the step that moves it."""
    duels = {step: getattr(recipe, step).adversarial for step in ("distill", "prune", "funnel")}
    both = [(step, settings) for step, duel in duels.items() for settings in (duel.generator, duel.discriminator)]
    return [("finetune", recipe.finetune.optim), *both]


def _check_frames(recipe: Recipe) -> None:
    """Errors: RecipeError for clips that I3D, and with it every FVD, cannot take."""
    from mobilevd.evaluation.i3d import MIN_FRAMES

    if (got := recipe.clip.frames) < MIN_FRAMES:
        what, allowed = "The clips are too short for the evaluation", f"{MIN_FRAMES} or more, which I3D needs"
        raise RecipeError(what, got=f"{got} frames", allowed=allowed, where="clip.frames of the recipe")


def summary(records: dict[str, dict]) -> str:
    """Verdict, every gate's value against its limit, version, bundle, page, and the time each stage took."""
    gate, register = records["gate"], records["register"]["facts"]
    lines = ["", f"verdict   {gate['facts']['verdict']}"]
    lines += [f"  {gate_line(row)}" for row in gate["tables"]["gates"]]
    lines += [f"registry  {register['model']} version {register['version']}  ({register['tracking_uri']})"]
    lines += [f"bundle    {register['bundle']}", f"page      {register['page']}"]
    lines += ["time      " + _times(records)]
    return "\n".join(lines)


def gate_line(row: dict) -> str:
    """One gate: pass, FAIL or undecided, its metric and the reason."""
    word = {"pass": "pass", "undecided": "undecided"}.get(row["status"], "FAIL")
    return f"{word}  {row['metric']}: {row['reason']}"


def _times(records: dict[str, dict]) -> str:
    seconds = {name: record["seconds"] for name, record in records.items()}
    parts = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    return f"{sum(seconds.values()) / 60:.1f} min in stages: {parts}"
