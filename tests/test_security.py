"""Hostile files: no pickle is loaded though it lies beside a valid file, and nothing is read from outside a folder."""

import ast
import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import tiny_svd
import torch

from mobilevd import artifacts, cli
from mobilevd.artifacts import MANIFEST, seal
from mobilevd.errors import IntegrityError, MobileVDError, RecipeError
from mobilevd.pipeline import MobileVDPipeline
from mobilevd.svd import base as bases
from mobilevd.training.checkpoints import Checkpoints

ROOT = Path(__file__).resolve().parents[1]
NAMES = (
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
    "model.pt",
    "model.ckpt",
    "weights.pkl",
    "python_model.pkl",
)


class Bomb:
    """Unpickling it leaves a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path) -> Path:
    """Where a loaded pickle would leave its mark; it has gone off once, so the bomb is real."""
    path = tmp_path / "gone-off"
    pickle.loads(pickle.dumps(Bomb(path)))
    path.rmdir()
    return path


def plant(folder: Path, marker: Path) -> None:
    for place in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        for name in NAMES:
            (place / name).write_bytes(pickle.dumps(Bomb(marker)))


def test_base_with_pickles_beside_its_weights_loads_the_weights(tmp_path, marker):
    folder = tiny_svd.write_base(tmp_path / "base")
    plant(folder, marker)
    base = bases.load(str(folder))
    assert base.vae
    assert base.image_encoder
    assert base.unet()
    assert not marker.exists()


@pytest.mark.parametrize("part", ["vae", "unet", "image_encoder"])
def test_base_with_a_pickle_instead_of_weights_is_refused(tmp_path, marker, part):
    folder = tiny_svd.write_base(tmp_path / "base")
    for path in (folder / part).glob("*.safetensors"):
        path.unlink()
    plant(folder, marker)
    base = bases.load(str(folder))
    with pytest.raises(RecipeError, match="no safetensors"):
        {"vae": lambda: base.vae, "unet": base.unet, "image_encoder": lambda: base.image_encoder}[part]()
    assert not marker.exists()


def test_bundle_with_pickles_is_refused_and_one_sealed_with_them_does_not_load_them(tmp_path, marker):
    folder = tiny_svd.write_bundle(tmp_path / "bundle", frames=3).path
    plant(folder, marker)
    with pytest.raises(IntegrityError, match="does not list"):
        MobileVDPipeline.from_pretrained(folder)
    seal(folder)
    MobileVDPipeline.from_pretrained(folder)(torch.zeros(3, 64, 64, dtype=torch.uint8))
    assert not marker.exists()


def test_checkpoint_with_pickles_in_it_is_refused_and_they_are_not_loaded(tmp_path, marker):
    checkpoints = Checkpoints(tmp_path / "checkpoints", "this training")
    checkpoints.save(1, {"network": {"w": torch.ones(3)}}, {})
    plant(tmp_path / "checkpoints", marker)
    with pytest.raises(IntegrityError, match="No checkpoint of this training is intact"):
        Checkpoints(tmp_path / "checkpoints", "this training").newest()
    assert not marker.exists()


def test_no_module_can_load_a_pickle_but_the_one_that_admits_arrays_only():
    found = {}
    for path in [*(ROOT / "mobilevd").rglob("*.py"), *(ROOT / "flows").rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        named |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        risky = named & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"} | calls & {
            "torch.load",
            "exec",
        }
        if risky:
            found[path.name] = risky
    assert found == {"pinned.py": {"pickle"}}


ESCAPES = ["../outside", "unet/../../outside", "/etc/hostname", "link/outside"]


@pytest.mark.parametrize("name", ESCAPES)
def test_manifest_entry_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    home = tmp_path / "bundle"
    (home / "unet").mkdir(parents=True)
    (tmp_path / "outside").write_text("x")
    (home / "link").symlink_to(tmp_path)
    target = home / name
    digest = artifacts.file_sha256(target) if target.is_file() else "0" * 64
    (home / MANIFEST).write_text(json.dumps({"files": {name: digest}}))
    with pytest.raises(IntegrityError, match="leaves its folder"):
        artifacts.verify(home)


def test_link_out_of_a_bundle_is_no_file_of_it(tmp_path):
    folder = tiny_svd.write_bundle(tmp_path / "bundle", frames=3).path
    shutil.move(folder / "pipeline.json", tmp_path / "pipeline.json")
    (folder / "pipeline.json").symlink_to(tmp_path / "pipeline.json")
    with pytest.raises(MobileVDError, match="leaves its folder"):
        MobileVDPipeline.from_pretrained(folder)


def test_nothing_that_a_failing_command_says_holds_a_secret(tmp_path, monkeypatch, capsys):
    """In the tracking address, the ledger's address, keys, and a model's address."""
    secrets = {
        "MLFLOW_TRACKING_URI": "http://me:planted-1@127.0.0.1:9",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_TRACKING_PASSWORD": "planted-2",
        "MOBILEVD_LEDGER": "https://me:planted-3@host/ledger",
        "AWS_SECRET_ACCESS_KEY": "planted-4",
        "MOBILEVD_WEBHOOK": "https://me:planted-5@host/hook",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    said = ""
    (tmp_path / "photo.jpg").write_text("never read")
    for words in (
        ("registry", "history"),
        ("registry", "promote"),
        ("verify", "models:/mobilevd/1"),
        ("generate", tmp_path / "photo.jpg", tmp_path / "o.mp4", "--model", "https://me:planted-6@host/bundle"),
        ("push", tmp_path, "gs://me:planted-7@bucket/x"),
        ("register", "--resume", tmp_path),
    ):
        monkeypatch.setattr(sys, "argv", ["mobilevd", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 1
        told = capsys.readouterr()
        said += told.out + told.err
    assert "https://host/ledger" in said
    assert "127.0.0.1:9" in said
    assert "planted" not in said
