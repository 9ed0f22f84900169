"""From weights to clips, link by link: what holds, what this machine cannot see, and the first link that is broken."""

import json
import subprocess
from importlib.metadata import version as installed
from pathlib import Path

import candidates
import mlflow_store
import pytest
from candidates import MODEL
from dvc.repo import Repo
from typer.testing import CliRunner

from mobilevd import cli
from mobilevd.artifacts import seal, write_json
from mobilevd.errors import MobileVDError
from mobilevd.registry import versions
from mobilevd.stages import lineage, verify
from mobilevd.video import identity

VERSIONS = {"python": "3.11", "mobilevd": "0.1.0", "onnx": installed("onnx")}


def git(folder: Path, *words: str) -> str:
    words = ("-c", "user.name=a", "-c", "user.email=a@b", *words)
    return subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A checkout whose one commit pins a folder of two clips."""
    root = tmp_path_factory.mktemp("project")
    (root / "data").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (root / "data" / name).write_bytes(name.encode())
    with Repo.init(str(root), no_scm=True) as repo:
        repo.add(str(root / "data"))
    git(root, "init")
    git(root, "add", "data.dvc")
    git(root, "commit", "-m", "pin")
    return root


@pytest.fixture(scope="module")
def offered(tmp_path_factory, project):
    """Two versions made by the project's commit from its clips; the second one is there to be damaged."""
    told = {"git_commit": git(project, "rev-parse", "HEAD"), "data_md5": identity.identity(project / "data.dvc")}
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv(versions.LEDGER, raising=False)
        mlflow_store.use(tmp_path_factory.mktemp("store"), patched)
        for _ in range(2):
            candidates.offer(tmp_path_factory.mktemp("run"), versions=VERSIONS, **told)
        yield told


def walked(number: str, root: Path) -> dict[str, str]:
    return {link.link: link.state for link in verify.walk(f"models:/{MODEL}/{number}", root)}


def test_every_link_of_a_whole_chain_holds(offered, project):
    assert walked("1", project) == dict.fromkeys(verify.LINKS, "holds")


def test_what_this_machine_cannot_see_is_unchecked_and_not_broken(offered, tmp_path):
    seen = walked("1", tmp_path)
    assert [link for link, state in seen.items() if state == "unchecked"] == ["code", "data pin", "clips"]
    assert len(seen) == len(verify.LINKS)


def retold(change) -> None:
    """The second version's lineage says something else, sealed and tagged like any other."""
    folder = candidates.stored("2")
    told = lineage.read(folder)
    change(told)
    write_json(folder / lineage.LINEAGE, told)
    mlflow_store.client().set_model_version_tag(MODEL, "2", "bundle_sha256", seal(folder).sha256)


@pytest.fixture
def restored():
    folder = candidates.stored("2")
    before = {path: path.read_bytes() for path in folder.parents[1].rglob("*") if path.is_file()}
    tag = versions.find(MODEL, "2").tags["bundle_sha256"]
    yield
    for path, data in before.items():
        path.write_bytes(data)
    mlflow_store.client().set_model_version_tag(MODEL, "2", "bundle_sha256", tag)


BREAKS = {
    "weights": (lambda: (candidates.stored("2") / "unet/weights.safetensors").write_text("x"), "file changed"),
    "weights, by MLflow's own file": (
        lambda: (candidates.stored("2").parent / "MLmodel").write_text(""),
        "description",
    ),
    "stages": (lambda: retold(lambda told: told["stages"]["quantize"]["parents"].update(funnel="0" * 64)), "quantize"),
    "stages, at the base": (lambda: retold(lambda told: told["base"].update(sha256="0" * 64)), "another base"),
    "recipe": (lambda: _edit_recipe(), "recipe is another"),
    "code": (lambda: retold(lambda told: told.update(git_commit="0" * 40)), "does not hold the commit"),
    "code, not committed": (lambda: retold(lambda told: told.update(git_commit="0" * 40 + "+dirty")), "in no commit"),
    "environment": (lambda: retold(lambda told: told.update(versions={})), "no versions"),
}


def _edit_recipe() -> None:
    path = candidates.stored("2") / lineage.RECIPE
    path.write_text(path.read_text().replace("steps: 1", "steps: 2"))
    retold(lambda told: None)


@pytest.mark.parametrize("name", BREAKS)
def test_first_broken_link_is_named_and_the_walk_ends_there(offered, project, restored, name):
    damage, said = BREAKS[name]
    damage()
    links = list(verify.walk(f"models:/{MODEL}/2", project))
    assert (links[-1].link, links[-1].state) == (name.split(",")[0], "broken")
    assert said in links[-1].seen
    assert {link.state for link in links[:-1]} <= {"holds"}


def test_clip_that_changed_is_named(offered, project):
    clip = project / "data" / "b.mp4"
    before = clip.read_bytes()
    clip.write_bytes(b"another")
    try:
        last = list(verify.walk(f"models:/{MODEL}/1", project))[-1]
    finally:
        clip.write_bytes(before)
    assert (last.link, last.state) == ("clips", "broken")
    assert "b.mp4" in last.seen


def test_data_that_the_commit_does_not_pin_is_named(offered, project, restored):
    def other(told):
        told["data_md5"] = "e" * 32
        report = candidates.report(data_md5="e" * 32)
        for folder in (candidates.stored("2"), candidates.stored("2").parents[1] / "pages" / "gates"):
            write_json(folder / lineage.REPORT, report)
        told["stages"]["gate"]["artifacts"]["gates"] = seal(folder).sha256

    retold(other)
    last = list(verify.walk(f"models:/{MODEL}/2", project))[-1]
    assert (last.link, last.state) == ("data pin", "broken")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nope", "There is no such model"),
        (f"models:/{MODEL}/9", "There is no such version"),
        (f"models:/{MODEL}@nobody", "no such alias"),
    ],
)
def test_model_that_is_not_there_is_no_broken_link(offered, address, said):
    told = CliRunner().invoke(cli.app, ["verify", address])
    assert isinstance(told.exception, MobileVDError)
    assert said in told.exception.what
    assert told.exception.where == "MODEL"
    assert told.stdout == ""


def test_command_prints_every_link_and_ends_with_an_error_at_a_broken_one(offered, restored, project, monkeypatch):
    monkeypatch.setattr(verify, "project_root", lambda: project)
    told = CliRunner().invoke(cli.app, ["verify", f"models:/{MODEL}/1", "--json"], catch_exceptions=False)
    assert [link["state"] for link in json.loads(told.stdout)] == ["holds"] * len(verify.LINKS)
    (candidates.stored("2") / "unet" / "weights.safetensors").write_text("x")
    told = CliRunner().invoke(cli.app, ["verify", f"models:/{MODEL}/2"])
    assert isinstance(told.exception, MobileVDError)
    assert "is broken at weights" in str(told.exception)
