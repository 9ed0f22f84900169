"""A bundle becomes a version only when everything says that it passed, and only whole."""

import math
import shutil
from pathlib import Path

import pytest

from mobilevd.artifacts import file_sha256, seal, verify, write_json
from mobilevd.errors import IntegrityError, MobileVDError
from mobilevd.registry import acceptance, runs


def versions(store) -> list:
    return list(store.search_model_versions())


def test_a_passed_bundle_becomes_a_version_whose_source_holds_it(store, recipe, records, bundle):
    run_id = runs.log_run(recipe, records, "passed", [])
    shipped = bundle()
    first = acceptance.register(recipe, run_id, shipped, {"data_md5": "d" * 32, "git_commit": "unknown"})
    second = acceptance.register(recipe, run_id, shipped, {})
    assert (first, second) == ("1", "2")
    version = store.get_model_version("mobilevd", first)
    expected = {"verdict": "passed", "recipe_digest": recipe.digest, "bundle_sha256": shipped.sha256}
    expected["mlmodel_sha256"] = file_sha256(Path(version.source.removeprefix("file://")) / "MLmodel")
    assert version.tags == expected | {"data_md5": "d" * 32, "git_commit": "unknown"}
    assert (version.run_id, version.status) == (run_id, "READY")
    verify(Path(version.source.removeprefix("file://")) / "bundle", shipped.sha256)


def test_a_rejected_run_is_written_down_and_has_no_version(store, recipe, records, bundle):
    run_id = runs.log_run(recipe, records, "rejected", [])
    shipped = bundle(verdict="rejected", passed=False)
    acceptance.reject(run_id, shipped)
    tags = store.get_run(run_id).data.tags
    assert (tags["verdict"], tags["bundle"], tags["bundle_sha256"]) == ("rejected", shipped.uri, shipped.sha256)
    assert len(store.search_runs([store.get_run(run_id).info.experiment_id])) == 3  # and two stages
    assert versions(store) == []


@pytest.mark.parametrize(
    "report",
    [
        {"verdict": "rejected", "passed": False},
        {"verdict": "passed", "passed": False},
        {"verdict": "passed", "recipe_digest": "another"},
    ],
)
def test_a_report_that_does_not_say_passed_for_this_recipe_is_refused(store, recipe, records, bundle, report):
    run_id = runs.log_run(recipe, records, "passed", [])
    with pytest.raises(MobileVDError, match="Only a bundle that passed"):
        acceptance.register(recipe, run_id, bundle(**report), {})
    assert versions(store) == []


def test_a_run_that_was_rejected_takes_no_passed_bundle(store, recipe, records, bundle):
    run_id = runs.log_run(recipe, records, "rejected", [])
    with pytest.raises(MobileVDError, match="did not pass"):
        acceptance.register(recipe, run_id, bundle(), {})
    assert versions(store) == []


@pytest.mark.parametrize("stored", [912.5, math.nan, None])
def test_figures_in_the_store_that_do_not_pass_are_refused(store, recipe, records, bundle, stored):
    told = {name: value for name, value in {"student.fvd": stored}.items() if value is not None}
    changed = {"prune": records["prune"].model_copy(update={"figures": told})}
    run_id = runs.log_run(recipe, records | changed, "passed", [])
    with pytest.raises(MobileVDError, match=r"figures in MLflow do not pass(.|\n)*student\.fvd"):
        acceptance.register(recipe, run_id, bundle(), {})
    assert versions(store) == []


def test_report_of_other_gates_is_refused(store, recipe, records, bundle):
    run_id = runs.log_run(recipe, records, "passed", [])
    shipped = bundle()
    rows = [{"metric": "student.motion", "passed": True, "limit": 0.5}]
    write_json(shipped.path / "gates.json", {"verdict": "passed", "recipe": recipe.digest, "rows": rows})
    with pytest.raises(MobileVDError, match="not of the recipe's gates"):
        acceptance.register(recipe, run_id, seal(shipped.path), {})
    assert versions(store) == []


def test_a_bundle_that_changed_is_refused(store, recipe, records, bundle):
    run_id = runs.log_run(recipe, records, "passed", [])
    shipped = bundle()
    (shipped.path / "unet" / "weights.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(IntegrityError, match=r"unet/weights\.safetensors"):
        acceptance.register(recipe, run_id, shipped, {})
    assert versions(store) == []


def test_a_store_that_damages_the_bundle_gets_no_version(store, recipe, records, bundle):
    run_id = runs.log_run(recipe, records, "passed", [])
    shipped = bundle()
    acceptance.register(recipe, run_id, shipped, {})
    stored = Path(store.get_run(run_id).info.artifact_uri.removeprefix("file://")) / "model" / "bundle"
    (stored / "unet" / "stranger.safetensors").write_bytes(b"another run's")
    with pytest.raises(IntegrityError, match="stranger"):
        acceptance.register(recipe, run_id, shipped, {})
    assert [version.version for version in versions(store)] in ([1], ["1"])


def test_a_store_without_room_is_a_clear_error_that_says_what_is_kept(store, recipe, records, bundle, tmp_path):
    run_id = runs.log_run(recipe, records, "passed", [])
    shipped = bundle()
    shutil.rmtree(tmp_path / "store" / "mlruns")
    (tmp_path / "store" / "mlruns").write_text("no folder can be made here")
    with pytest.raises(MobileVDError) as caught:
        acceptance.register(recipe, run_id, shipped, {})
    assert shipped.uri in str(caught.value)
    assert "no version was created" in str(caught.value)
    assert versions(store) == []
    verify(shipped.path, shipped.sha256)
