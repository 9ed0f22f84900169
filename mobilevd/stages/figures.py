"""The figures that a run will leave, by name, known before it starts: what its gates may ask for.

**Keeps** every figure that a stage records is among them, and each of theirs is recorded: a gate that can never pass is
refused before anything is trained (``tests/stages/test_figures.py``, and the stages' own tests).
"""

import difflib

from mobilevd.device import targets
from mobilevd.device.profile import PERCENTILES
from mobilevd.device.targets import Target
from mobilevd.device_settings import Profile
from mobilevd.errors import RecipeError
from mobilevd.evaluation.gates import CHAMPION, reference
from mobilevd.params import Recipe
from mobilevd.settings import Gate
from mobilevd.stages.labels import COMPARED, LABELS
from mobilevd.stages.profile import BASE, BASE_REPEATS

TRAINED = ("tflops", "tflops_before", "params_m", "params_m_before")
TRAINED += ("steps_per_second", "clips_share", "checkpoints_share")
ADVERSARIAL = (*TRAINED, "rec_loss_before", "rec_loss_after")
OF_CLIPS = ("clips", "clips_rendered", "sources", "motion_mean")
PREPARED = tuple(f"{side}_{figure}" for side in ("train", "validation") for figure in OF_CLIPS)
PREPARED += ("rejected_files", "rejected_windows", "shards", "gather_seconds")
STAGES = {
    "prepare": (*PREPARED, "latents_reused", "latents_computed", "latents_damaged"),
    "finetune": (*TRAINED, "val_loss_before", "val_loss_after"),
    "distill": ADVERSARIAL,
    "prune": (*ADVERSARIAL, "blocks_before", "blocks_after"),
    "funnel": (*ADVERSARIAL, "merge_error"),
    "quantize": ("sqnr_db", "parity_db", "float_mb", "quantized_mb", "calibration_clips"),
    "evaluate": ("clips",),
    "real": ("motion",),
    "teacher": ("evaluations",),
}
DISTANCES = ("fvd", "fvd_low", "fvd_high", "kvd", "kvd_low", "kvd_high", "fvd_extrapolated", "fvd_to_reconstructed")
SCORES = (*DISTANCES, "motion_ratio", "flicker", "flicker_ratio", "colour_entropy", "colour_entropy_ratio")
SCORES += ("first_frame_copy_rate", "loop_score", "blank_share", "nan_share", "input_adherence")
STARTS = ("min_ms", "cold_start_ms", "warm_start_ms")
WIRED = (*STARTS, "first_run_ms", "peak_memory_mb")
HUB = (*STARTS, "estimated_ms", "peak_memory_mb", "sqnr_db", "sqnr_to_cpu_db", "binary_mb")
EMULATED = ("sqnr_db", "sqnr_to_cpu_db", "context_mb", "compile_s", "partitions", "fallback_share")


def names(recipe: Recipe) -> set[str]:
    """Every figure that a gate of this recipe may ask for."""
    known = set().union(*map(of_stage, STAGES))
    known -= {"funnel.merge_error"} if recipe.funnel.kind == "truncated" else set()
    known |= {f"{name}.{score}" for name in LABELS for score in SCORES}
    known |= {f"{name}.fvd_minus_{other}{end}" for name, other in COMPARED.items() for end in ("", "_low", "_high")}
    return known.union(*(of_device(recipe.profile, device) for device in recipe.profile.devices))


def of_stage(stage: str) -> set[str]:
    """A stage's own, whatever the recipe says."""
    return {f"{stage}.{figure}" for figure in STAGES[stage]}


def of_device(settings: Profile, device: str) -> set[str]:
    """What is measured on one device. Errors: MobileVDError for an unknown one."""
    target = targets.find(device)
    return {f"profile.{target.name}.{figure}" for figure in _measured(settings, target)}


def _measured(settings: Profile, target: Target) -> tuple[str, ...]:
    runs = _percentiles(settings.repeats)
    long = ("sustained_p50_ms", "sustained_ratio") if settings.sustain_s else ()
    if target.kind == "emulator":
        return EMULATED
    if target.kind == "phone":
        return (*HUB, *runs) if target.runtime == targets.PHONE else (*WIRED, *runs, *long)
    timed = (*WIRED, "memory_before_mb")
    graphs = {"": (*timed, *runs, *long), "float_": (*timed, *runs)}
    graphs |= {BASE: (*timed, *_percentiles(BASE_REPEATS))} if settings.base else {}
    return tuple(f"{prefix}{figure}" for prefix, figures in graphs.items() for figure in figures)


def _percentiles(runs: int) -> tuple[str, ...]:
    return tuple(f"p{percent}_ms" for percent, least in PERCENTILES.items() if runs >= least)


def check(recipe: Recipe) -> None:
    """Errors: RecipeError for a gate on what this run does not make: a figure, its interval, one of such a device."""
    known = names(recipe)
    for gate in recipe.gates:
        for metric in asked(gate):
            if metric not in known:
                what = "A gate asks for a figure that this run does not make, so that it could never pass"
                raise _refused(what, metric, _instead(metric, known, recipe))
            if gate.by == "interval" and f"{metric}_low" not in known:
                what = "A gate asks for the interval of a figure that has none"
                raise _refused(what, f"{metric}, by: interval", "by: point, or fvd, kvd and their differences")
        kind = targets.find(device_of(gate.metric, recipe)).kind if gate.measured_on else None
        if kind != gate.measured_on:
            what = f"A gate accepts figures of class {gate.measured_on} only, and this device is of another"
            raise _refused(what, f"{gate.metric}, {kind}", f"measured_on: {kind}, or another device")


def asked(gate: Gate) -> list[str]:
    """The figures of the run that a gate looks at."""
    return [gate.metric] + ([reference(gate)] if gate.of not in (None, CHAMPION) else [])


def device_of(metric: str, recipe: Recipe) -> str | None:
    """The device of the recipe that a figure is of; None for any other figure."""
    device = metric.removeprefix("profile.").rpartition(".")[0]
    return device if metric.startswith("profile.") and device in recipe.profile.devices else None


def _refused(what: str, got: str, allowed: str) -> RecipeError:
    return RecipeError(what, got=got, allowed=allowed, where="gates in the recipe")


def _instead(metric: str, known: set[str], recipe: Recipe) -> str:
    """What comes near; else all that there is of this contender, stage or device; else those."""
    if metric.startswith("profile.") and device_of(metric, recipe) is None:
        return f"a device of profile.devices, here {', '.join(recipe.profile.devices)}"
    if near := difflib.get_close_matches(metric, sorted(known), n=3, cutoff=0.8):
        return ", ".join(near)
    group = metric.rpartition(".")[0]
    same = sorted(name for name in known if name.rpartition(".")[0] == group)
    return ", ".join(same or dict.fromkeys([*LABELS, *STAGES, "profile"]))
