"""``mobilevd cost`` and ``mobilevd plan``: the same figures as a table and as data; what has no effect is refused."""

import json
from functools import partial
from pathlib import Path

import command_line
import pytest
import tiny_svd
from command_line import run
from typer.testing import CliRunner

from mobilevd import cli, places
from mobilevd.artifacts import StageRecord
from mobilevd.svd import base as bases

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return tiny_svd.write_bundle(tmp_path_factory.mktemp("bundles") / "bundle").path


@pytest.fixture
def refused(monkeypatch, capsys):
    """``refused(*words)``: what a failing command says, and its exit code."""
    return partial(command_line.refused, monkeypatch, capsys)


def test_cost_of_a_bundle_is_a_row_of_json(bundle):
    [row] = json.loads(run("cost", "--model", bundle, "--width", "128", "--height", "64", "--json"))
    assert (row["row"], row["size"]) == ("bundle", "128x64")
    assert 0 < row["tflops"] < 0.1
    assert 0.1 < row["params_m"] < 10


def test_cost_of_a_bundle_is_a_table_of_the_same_figures(bundle):
    words = ("cost", "--model", bundle, "--width", "128", "--height", "64")
    [row] = json.loads(run(*words, "--json"))
    table = run(*words)
    assert f"{row['tflops']:.4g}" in table
    assert f"{row['params_m']:.4g}" in table
    assert "M params" in table


def test_cost_of_a_bundle_is_split_by_kind(bundle):
    words = ("cost", "--model", bundle, "--width", "128", "--height", "64")
    [row] = json.loads(run(*words, "--json", "--split"))
    assert sum(part["params"] for part in row["split"].values()) / 1e6 == row["params_m"]
    assert sum(part["flops"] for part in row["split"].values()) / 1e12 == row["tflops"]
    table = run(*words, "--split")
    assert f"{row['split']['feed-forward']['params'] / 1e6:.1f}" in table
    assert "temporal ResBlocks" in table


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--ladder --width 10", "--width with --ladder"),
        ("--ladder --height 256", "--height with --ladder"),
        ("--ablations --downscale 8", "--downscale with --ablations"),
        ("--model x --with-encoders", "--with-encoders with --model"),
        ("--ablations --with-encoders", "--with-encoders with --ablations"),
        ("--model x --markdown", "--markdown with --model"),
        ("--ladder --markdown --split", "--markdown with --split"),
        ("--ladder --markdown --with-encoders", "--markdown with --with-encoders"),
        ("--ablations --markdown --json", "--markdown with --json"),
        ("--ladder --split --with-encoders", "--split with --with-encoders"),
        ("--ablations --height 1 --markdown --json", "--height with --ablations, --markdown with --json"),
    ],
)
def test_options_of_cost_without_effect_are_refused_by_name(refused, options, named):
    said, code = refused("cost", *options.split())
    assert code == 1
    assert said.startswith(f"These options do not go together\n  got:     {named}\n  allowed: ")


@pytest.mark.parametrize("both", [True, False])
def test_cost_of_nothing_or_of_two_things_is_refused(refused, bundle, both):
    said, code = refused("cost", *(("--ladder", "--model", bundle) if both else ()))
    assert code == 1
    assert "Say what to count" in said


def test_cost_of_a_folder_without_a_network_is_refused(refused, tmp_path):
    said, code = refused("cost", "--model", tmp_path)
    assert code == 1
    assert "no network here" in said


@pytest.fixture
def stage(tmp_path) -> Path:
    """The network folder of a run's stage, on the pocket base."""
    bases.load("pocket").unet().save_pretrained(tmp_path / "run" / "funnel" / "network" / "unet")
    record = StageRecord(stage="prepare", recipe_digest="", data_md5="", facts={"base": "pocket"})
    record.save(tmp_path / "run" / "prepare" / "record.json")
    return tmp_path / "run" / "funnel" / "network"


def test_cost_of_a_runs_stage_is_counted_on_the_latents_of_its_base_without_a_word(stage):
    done = CliRunner().invoke(cli.app, ["cost", "--model", str(stage), "--json"], catch_exceptions=False)
    assert (json.loads(done.stdout)[0]["latents"], done.stderr) == ("14 x 8 x 16 x 32", "")


def test_cost_says_that_it_assumes_svds_latents_where_nothing_tells_of_others(stage):
    (stage.parents[1] / "prepare" / "record.json").unlink()
    assumed, told = (
        CliRunner().invoke(cli.app, ["cost", "--model", str(stage), "--json", *more], catch_exceptions=False)
        for more in ((), ("--downscale", "16"))
    )
    assert json.loads(assumed.stdout)[0]["latents"] == "14 x 8 x 32 x 64"
    assert "8, as SVD's, assumed; --downscale" in assumed.stderr
    assert (json.loads(told.stdout)[0]["latents"], told.stderr) == ("14 x 8 x 16 x 32", "")


PLAN = ("plan", "--tflops", "1")


def test_plan_prints_times_by_size_and_hours_as_data():
    table = run(*PLAN, "--recipe", ROOT / "recipes" / "smoke.yaml")
    assert " s " in table
    assert "e-0" not in table.partition("device-time")[2].partition("prepare")[2].split("│")[2]
    rows = json.loads(run(*PLAN, "--recipe", ROOT / "recipes" / "smoke.yaml", "--json"))
    assert {"hours", "device-hours"} <= rows[0].keys()


def test_plan_takes_the_projects_recipe_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    elsewhere = run(*PLAN)
    assert elsewhere == run(*PLAN, "--recipe", ROOT / "params.yaml")
    (tmp_path / "params.yaml").write_text("from: recipes/smoke.yaml\nname: here\n")
    assert run(*PLAN) == run(*PLAN, "--recipe", ROOT / "recipes" / "smoke.yaml") != elsewhere


def test_plan_without_any_recipe_names_the_option(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(places.HOME, str(tmp_path))
    said, code = refused(*PLAN)
    assert code == 1
    assert f"no params.yaml in {tmp_path}" in said
    assert said.endswith("where:   --recipe\n")


def test_plan_of_a_folder_is_not_told_that_it_does_not_exist(tmp_path, refused):
    said, code = refused(*PLAN, "--recipe", tmp_path)
    assert code == 1
    assert said.startswith(f"The recipe is a folder\n  got:     {tmp_path}")
    assert refused(*PLAN, "--recipe", tmp_path / "no")[0].startswith("The recipe does not exist")


def test_plan_counts_the_devices_of_the_recipes_machines_unless_others_are_given(tmp_path):
    recipe = tmp_path / "team.yaml"
    recipe.write_text("from: recipes/smoke.yaml\nname: team\nmachines: {steps: {finetune: {gpus: 8}}}\n")
    assert "devices: finetune 8, distill 1, prune 1, funnel 1, evaluate 1 (gpus" in run(*PLAN, "--recipe", recipe)
    given = run(*PLAN, "--recipe", recipe, "--devices", "2")
    assert "devices: finetune 2, distill 2, prune 2, funnel 2, evaluate 2 (as given)" in given
