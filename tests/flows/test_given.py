"""A bad recipe on a flow's command line: its message with the file's name, and nothing of Python's."""

import subprocess
import sys
from pathlib import Path

import metaflow_store
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SMOKE = (ROOT / "recipes" / "smoke.yaml").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    metaflow_store.use(tmp_path, monkeypatch)
    (tmp_path / "typo.yaml").write_text(SMOKE + "\ncolour: blue\n", encoding="utf-8")
    (tmp_path / "good.yaml").write_text(SMOKE, encoding="utf-8")


@pytest.fixture
def given(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "flows"), *sys.path])
    import given

    return given


def test_a_bad_recipe_is_told_with_its_files_name_and_without_a_traceback():
    words = [sys.executable, str(ROOT / "flows" / "train_flow.py"), "--config", "recipe", "typo.yaml", "run"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    first, mistake, where = (done.stdout + done.stderr).strip().splitlines()
    assert done.returncode == 1
    assert first.strip() == "The recipe cannot be run:"
    assert mistake.strip().startswith("colour: unknown key, got 'blue'; allowed here: name, base, ")
    assert where.strip() == "where:   typo.yaml"


def test_the_named_file_or_the_default_is_the_one_with_that_text(given):
    flow, option, default = ["train_flow.py"], ["--config", "recipe"], Path(given.DEFAULT)
    assert default == ROOT / "params.yaml"
    assert given.file_of(SMOKE, [*flow, *option, "good.yaml", "run"]) == "good.yaml"
    assert given.file_of(default.read_text("utf-8"), [*flow, "run"]) == given.DEFAULT
    for other in (
        ["run"],
        [*option, "typo.yaml", "run"],
        [*option, "gone.yaml"],
        option,
        ["--with", "recipe", "good.yaml"],
    ):
        assert given.file_of(SMOKE, [*flow, *other]) == "--config recipe"


def test_a_good_recipe_is_parsed_to_the_end(given):
    assert given.recipe(SMOKE)["name"] == yaml.safe_load(SMOKE)["name"]
    assert given.recipe(SMOKE)["training"]["keep_last"] == 2
