"""Every contender starts from the same noise on the same clips, is scored, and is shown; for I3D see test_sampling."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tiny_svd
import torch
from PIL import Image
from safetensors.torch import load_file
from small_run import ABOVE, FRAMES, HALVED_TWICE, LATENTS, PREPARED, SEED, STEPS, inputs_for, recipe_for

from mobilevd.artifacts import StageRecord, verify
from mobilevd.errors import IntegrityError
from mobilevd.evaluation import fingerprint, i3d, motion
from mobilevd.method import surgery
from mobilevd.params import Recipe
from mobilevd.stages import contenders, evaluate, labels, sampling, spread
from mobilevd.stages.figures import names
from mobilevd.svd import base as bases
from mobilevd.svd.conditioning import added_ids
from mobilevd.svd.sampler import OneStep, clip_noise, sample
from mobilevd.svd.scheduler import Schedule

PER_CONTENDER = {"fvd", "fvd_to_reconstructed", "kvd", "motion_ratio", "flicker", "first_frame_copy_rate"}
PER_CONTENDER |= {"colour_entropy", "colour_entropy_ratio", "blank_share", "loop_score", "input_adherence", "nan_share"}
PER_CONTENDER |= {"flicker_ratio", "fvd_low", "fvd_high", "kvd_low", "kvd_high"}
DIFFERENCES = {
    f"{name}{end}"
    for name in ("student.fvd_minus_teacher", "quantized.fvd_minus_student")
    for end in ("", "_low", "_high")
}
IDS = added_ids(1, 7.0, 127, 0.02)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def recipe(home) -> Recipe:
    """Two of the three prepared clips: the first and the last."""
    return recipe_for(tiny_svd.write_base(home / "base", **HALVED_TWICE), clips=2)


@pytest.fixture(scope="module")
def inputs(home, recipe) -> dict[str, StageRecord]:
    return inputs_for(home, recipe)


class Pooled(i3d.I3D):
    """In I3D's place: colours of 128 places and times, the other features 0."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.scale = torch.nn.Parameter(torch.tensor(10.0), requires_grad=False)

    def forward(self, x):
        """N 3 F H W → N 400."""
        seen = torch.nn.functional.adaptive_avg_pool3d(x, (2, 8, 8)).flatten(1)
        return self.scale * torch.nn.functional.pad(seen, (0, 400 - seen.shape[1]))


@pytest.fixture(scope="module")
def record(home, recipe, inputs) -> StageRecord:
    """The stage run once, its features kept apart from those of I3D."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MOBILEVD_CACHE", str(home / "cache"))
        patched.setenv(spread.PROCESSES, "1")
        patched.setattr(i3d, "load", Pooled)
        return evaluate.run(recipe, inputs, home / "evaluate")


@pytest.fixture(scope="module")
def samples(record) -> dict[str, torch.Tensor]:
    folder = record.artifacts["samples"].path
    return {
        name: torch.cat([load_file(sampling.place(folder, name, k))["latents"] for k in range(2)])
        for name in labels.LABELS
    }


def test_every_contender_has_every_figure_and_all_are_finite(record, recipe):
    expected = {f"{name}.{figure}" for name in labels.LABELS for figure in PER_CONTENDER}
    assert record.figures.keys() == expected | DIFFERENCES | {"real.motion", "evaluate.clips", "teacher.evaluations"}
    left_out = {f"{name}.fvd_extrapolated" for name in labels.LABELS}  # of two clips there is none
    told = {name for name in names(recipe) if name.split(".")[0] in {*labels.LABELS, "real", "evaluate"}}
    assert record.figures.keys() == told - left_out
    assert np.isfinite(list(record.figures.values())).all()
    assert record.figures["evaluate.clips"] == 2


def test_references_score_what_they_must(record):
    figures = record.figures
    assert figures["autoencoder.fvd_to_reconstructed"] == pytest.approx(0.0, abs=1e-6)
    assert figures["autoencoder.fvd"] > 1
    assert len({figures[f"{name}.fvd"] for name in labels.LABELS}) == len(labels.LABELS), "each its own samples"


def test_protocol_is_written_down_and_moves_with_what_it_depends_on(record, recipe, inputs):
    told = fingerprint.of_facts(record.facts)
    held = contenders.held_out(recipe, inputs["prepare"])
    assert told == evaluate._protocol(recipe, Schedule(), held).model_dump(mode="json")
    other = recipe_for(Path(recipe.base), clips=PREPARED)
    moved = evaluate._protocol(other, Schedule(), contenders.held_out(other, inputs["prepare"])).model_dump(mode="json")
    assert fingerprint.differing(told, moved) == ["clips", "real"]
    for asked in ({"guidance": (1.0, 5.0)}, {"guidance_above": 2.0}, {"guidance_above": 0.0}):
        guided = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update=asked)})
        changed = evaluate._protocol(guided, Schedule(), held).model_dump(mode="json")
        assert fingerprint.differing(told, changed) == ["sampler"]
    to_the_end = guided.evaluate.model_dump(mode="json", exclude={"clips", "guidance_above"}) | asdict(Schedule())
    assert changed["sampler"] == fingerprint.digest(to_the_end), "as before there was a choice"


def test_intervals_hold_their_figures_and_differences_are_those_of_the_figures(record):
    figures = record.figures
    for name in labels.LABELS:
        assert figures[f"{name}.fvd_low"] <= figures[f"{name}.fvd"] <= figures[f"{name}.fvd_high"]
    expected = figures["student.fvd"] - figures["teacher.fvd"]
    assert figures["student.fvd_minus_teacher"] == pytest.approx(expected, abs=1e-6 * figures["teacher.fvd"])


def test_frozen_reference_is_the_first_frame_repeated(samples):
    first = samples["autoencoder"][:, :1]
    assert torch.equal(samples["frozen"], first.expand(-1, FRAMES, -1, -1, -1))


def test_shuffled_reference_holds_the_first_frame_and_the_others_in_another_order(samples):
    for made, true in zip(samples["shuffled"], samples["autoencoder"], strict=True):
        assert torch.equal(made[0], true[0])
        order = [next(f for f in range(FRAMES) if torch.equal(frame, true[f])) for frame in made]
        assert sorted(order) == list(range(FRAMES)) != order


def test_motion_is_measured_on_the_decoded_samples(record, samples, recipe, home):
    real = load_file(home / "prepare/clips/validation.safetensors")["video"][[0, 2]]
    decoded = bases.load(recipe.base).decode(samples["student"])
    expected = motion.energy(decoded).mean() / motion.energy(real).mean()
    assert record.figures["student.motion_ratio"] == pytest.approx(expected.item(), rel=0.02)


def test_real_clips_are_the_prepared_ones_from_first_to_last(record, home):
    video = load_file(home / "prepare/clips/validation.safetensors")["video"]
    assert record.figures["real.motion"] == pytest.approx(motion.energy(video[[0, 2]]).mean().item())


def condition(home: Path, number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Image latents and token of one prepared clip, and the noise of its seed."""
    encoded = load_file(home / "prepare/latents/validation.safetensors")
    noise = clip_noise([SEED * 100_003 + number], LATENTS)
    return *(encoded[name][number : number + 1].float() for name in ("image_latents", "tokens")), noise


@pytest.mark.parametrize(("row", "number"), [(0, 0), (1, 2)])
@torch.no_grad()
def test_every_network_starts_from_the_clips_own_noise(samples, home, row, number):
    image, token, noise = condition(home, number)
    names = {"teacher_one_step": "finetune", "distilled": "distill", "pruned": "prune", "student": "funnel"}
    expected = {name: OneStep(surgery.load(home / stage)[0])(noise, image, token, IDS) for name, stage in names.items()}
    teacher = surgery.load(home / "finetune")[0]
    expected["teacher"] = sample(teacher, image, token, IDS, noise, STEPS, (1.0, 3.0), ABOVE)
    for name, latents in expected.items():
        apart = samples[name][row : row + 1] - latents  # of sums of numbers near 700: single ones near 0 may differ
        assert apart.norm() / latents.norm() < 1e-4, name


@pytest.mark.parametrize("name", ["teacher", "teacher_one_step", "student"])
def test_networks_and_what_they_are_given_are_on_the_device_that_is_asked_for(recipe, inputs, name):
    held = contenders.held_out(recipe, inputs["prepare"])
    make = contenders.makers(recipe, Schedule(), inputs, held, torch.device("meta"))[name]()
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):  # computed there, and fetched
        make(0)


@pytest.mark.parametrize(("row", "number"), [(0, 0), (1, 2)])
def test_quantized_contender_is_the_stored_graph_on_the_same_input(samples, home, row, number):
    image, token, noise = condition(home, number)
    expected = noise + image.unsqueeze(1) + token.mean() + IDS.mean()
    torch.testing.assert_close(samples["quantized"][row : row + 1], expected, rtol=1e-5, atol=1e-5)


def test_noise_of_a_clip_does_not_depend_on_how_many_are_evaluated(samples, recipe, inputs):
    whole = recipe_for(Path(recipe.base), clips=PREPARED)
    held = contenders.held_out(whole, inputs["prepare"])
    make = contenders.makers(whole, Schedule(), inputs, held)["student"]()
    made = torch.cat([make(k) for k in range(PREPARED)])
    assert len(made) == PREPARED
    torch.testing.assert_close(made[[0, 2]], samples["student"], rtol=1e-5, atol=1e-5)
    assert (made[1] - made[2]).abs().max() > 1e-2


def test_teacher_visits_the_bases_own_noise_levels(samples, recipe, inputs):
    held = contenders.held_out(recipe, inputs["prepare"])
    teacher, other = (
        contenders.makers(recipe, schedule, inputs, held)["teacher"]()(0)
        for schedule in (Schedule(), Schedule(sigma_min=5.0))
    )
    assert torch.equal(teacher, samples["teacher"][:1])
    assert (other - teacher).abs().max() > 1e-2
    fields = (evaluate._protocol(recipe, s, held).sampler for s in (Schedule(), Schedule(sigma_min=5.0)))
    assert len(set(fields)) == 2


def test_more_clips_than_prepared_are_all_of_them(recipe, inputs):
    held = contenders.held_out(recipe_for(Path(recipe.base), clips=50), inputs["prepare"])
    assert (len(held), held.numbers) == (PREPARED, [0, 1, 2])


@pytest.mark.parametrize("stage", ["finetune", "funnel", "quantize"])
def test_changed_network_is_refused_before_it_is_sampled(recipe, inputs, stage):
    [(name, artifact)] = inputs[stage].artifacts.items()
    other = inputs[stage].model_copy(update={"artifacts": {name: artifact.model_copy(update={"sha256": "0" * 64})}})
    held = contenders.held_out(recipe, inputs["prepare"])
    makers = contenders.makers(recipe, Schedule(), inputs | {stage: other}, held)
    contender = {"finetune": "teacher", "funnel": "student", "quantize": "quantized"}[stage]
    with pytest.raises(IntegrityError, match="manifest changed"):
        makers[contender]()


@pytest.mark.parametrize("name", ["clips", "latents"])
def test_changed_clips_are_refused(recipe, inputs, name):
    given = inputs["prepare"].artifacts
    wrong = given | {name: given[name].model_copy(update={"sha256": "0" * 64})}
    with pytest.raises(IntegrityError, match="manifest changed"):
        contenders.held_out(recipe, inputs["prepare"].model_copy(update={"artifacts": wrong}))


def test_record_says_what_was_judged_and_everything_it_names_is_there(record, inputs, home, recipe):
    judged = {"finetune": "network", "funnel": "network", "quantize": "onnx"}
    assert record.parents == {s: inputs[s].artifacts[name].sha256 for s, name in judged.items()}
    assert record.started_at > 0
    assert (record.stage, record.recipe_digest, record.data_md5) == ("evaluate", recipe.digest, "d" * 32)
    for artifact in record.artifacts.values():
        verify(artifact.path, artifact.sha256)
    assert {p.name for p in record.artifacts["clips"].path.glob("??.webp")} == {"00.webp", "01.webp"}
    for picture in record.pictures.values():
        with Image.open(home / "evaluate" / picture) as image:
            assert image.width >= 4 * 256


def test_table_of_scores_names_every_contender_and_its_evaluations(record):
    rows = record.tables["scores"]
    assert [row["contender"] for row in rows][3] == "teacher, 2 steps (3 evaluations)", "one of them is not guided"
    assert record.figures["teacher.evaluations"] == 3
    assert len(rows) == len(labels.LABELS)
    for name, row in zip(labels.LABELS, rows, strict=True):
        assert all(row[figure] == record.figures[f"{name}.{figure}"] for figure in row if figure != "contender")
        assert "fvd" in row
