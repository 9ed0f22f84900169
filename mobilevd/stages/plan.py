"""Before the first stage and after the last: where a run writes, what it will do, how it ended."""

import os
import re
from pathlib import Path

from mobilevd.packages import project_root
from mobilevd.params import Recipe


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
    """Check the recipe against its base and its devices, and say what will run.

    Errors: MobileVDError, of the kind that names what does not fit.
    """
    from mobilevd.device import targets
    from mobilevd.svd import base as bases
    from mobilevd.training.checkpoints import check_resume

    for checkpoints in recipe.training.resume.values():
        check_resume(Path(checkpoints))
    for device in recipe.profile.devices:
        targets.find(device)

    base = bases.load(recipe.base)
    base.check_clip(recipe.clip)
    clip = recipe.clip
    return (
        f"recipe {recipe.name} ({recipe.digest[:12]}) on base {recipe.base} ({base.digest[:12]}), seed {recipe.seed}\n"
        f"clips of {clip.frames} frames at {clip.fps:g} fps, {clip.width}x{clip.height}\n"
        f"this run writes to {folder}"
    )


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
