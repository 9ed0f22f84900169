"""What a gate may ask for is what a run leaves, to the last name; other gates are refused before it starts."""

import one_step
import pytest

from mobilevd.errors import RecipeError
from mobilevd.params import Recipe, check
from mobilevd.stages import figures
from mobilevd.stages.labels import LABELS

DEVICES = ["host-cpu", "snapdragon-8-gen-3", "qai-hub:Samsung Galaxy S24 5.1", "adb"]


def recipe(*gates: dict, **sections: dict) -> Recipe:
    values = one_step.recipe().model_dump(mode="json") | {"profile": {"devices": DEVICES}} | sections
    return check(values | {"gates": list(gates) or [{"metric": "student.fvd", "max": 1.0}]})


def test_every_figure_of_a_run_may_be_asked_for_and_held_against_its_teachers_or_the_champions():
    for metric in sorted(figures.names(recipe())):
        figures.check(recipe({"metric": metric, "max": 1.0}))
        figures.check(recipe({"metric": metric, "max_worse": 1.0, "of": "champion"}))
    for score in figures.SCORES:
        figures.check(recipe({"metric": f"student.{score}", "max_worse": 1.0, "of": "teacher"}))
    figures.check(recipe({"metric": "student.kvd", "max_ratio": 1.0, "of": "teacher", "by": "interval"}))
    figures.check(recipe({"metric": "profile.adb.p50_ms", "max": 1.0, "measured_on": "phone"}))


PHONE = f"profile.{DEVICES[2]}"
NONE_SUCH = {
    "student.fvdd": "student.fvd, ",
    "studnt.fvd": "student.fvd",
    "student.speed": "student.blank_share, student.colour_entropy, ",
    "speed": f"{', '.join(LABELS)}, prepare, finetune, ",
    "fvd": "autoencoder, ",
    "quantize.sqnr": "quantize.sqnr_db",
    "profile.adb:8a1c.p50_ms": "a device of profile.devices, here host-cpu, snapdragon-8-gen-3, qai-hub:",
    "profile.p50_ms": "a device of profile.devices, here host-cpu, ",
    "profile.snapdragon-8-gen-3.p50_ms": "profile.snapdragon-8-gen-3.",
    "profile.host-cpu.p99_ms": "profile.host-cpu.p90_ms",  # of twenty runs there is none
    "profile.host-cpu.sustained_ratio": "profile.host-cpu.",
    "profile.host-cpu.base_p50_ms": "profile.host-cpu.p50_ms",
    f"{PHONE}.first_run_ms": f"{PHONE}.",
    "gates.failed": "autoencoder, ",  # known after the gates alone
}


@pytest.mark.parametrize("metric", NONE_SUCH)
@pytest.mark.parametrize("gate", [{"max": 1.0}, {"max_worse": 1.0, "of": "champion"}])
def test_a_figure_that_no_run_of_this_recipe_makes_is_refused_with_what_comes_near(metric, gate):
    with pytest.raises(RecipeError) as error:
        figures.check(recipe({"metric": "student.fvd", "max": 1.0}, {"metric": metric, **gate}))
    assert error.value.what.startswith("A gate asks for a figure that this run does not make")
    assert (error.value.got, error.value.where) == (metric, "gates in the recipe")
    assert NONE_SUCH[metric] in error.value.allowed


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        (
            {"metric": "student.fvd", "max_ratio": 1.0, "of": "techer.fvd"},
            "techer.fvd\n  allowed: teacher.fvd",
        ),
        ({"metric": "quantize.sqnr_db", "max_worse": 1.0, "of": "teacher"}, "got:     teacher.sqnr_db"),
        ({"metric": "student.loop_score", "max": 1.0, "by": "interval"}, "got:     student.loop_score, by: interval"),
        (
            {"metric": "profile.host-cpu.p50_ms", "max": 1.0, "measured_on": "phone"},
            "p50_ms, host\n  allowed: ",
        ),
    ],
)
def test_a_gate_whose_reference_interval_or_class_of_device_cannot_be_there_is_refused(gate, told):
    with pytest.raises(RecipeError) as error:
        figures.check(recipe(gate))
    assert told in str(error.value)


def test_what_a_setting_brings_may_be_asked_for_with_it_alone():
    funnel, truncated = one_step.recipe().funnel.model_dump(mode="json"), {"kind": "truncated", "fun_factor": 0.25}
    assert "funnel.merge_error" not in figures.names(recipe(funnel=funnel | truncated))
    settings = {"devices": ["host-cpu", "adb"], "repeats": 100, "sustain_s": 1.0, "base": True}
    more = figures.names(recipe(profile=settings)) - figures.names(recipe())
    sustained = {f"profile.{device}.sustained_ratio" for device in settings["devices"]}
    assert more > sustained | {"profile.host-cpu.p99_ms", "profile.adb.p99_ms", "profile.host-cpu.base_p50_ms"}
    assert "profile.host-cpu.base_p90_ms" not in more  # the base is timed five times
