"""What is installed for whom: a bare install animates and brings no training library; development has everything."""

import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
import whole_bundle
from movies import texture
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "mlflow", "metaflow", "great-expectations", "dvc", "onnx"}


def closure(lines: list[str]) -> set[str]:
    """Every package that the requirements bring, by what is installed here."""
    found, waiting = set(), [(Requirement(line), set()) for line in lines]
    while waiting:
        wanted, extras = waiting.pop()
        name = canonicalize_name(wanted.name)
        if wanted.marker and not any(wanted.marker.evaluate({"extra": extra}) for extra in extras or {""}):
            continue
        if name in found and not wanted.extras:
            continue
        found.add(name)
        try:
            waiting += [(Requirement(line), wanted.extras) for line in requires(name) or []]
        except PackageNotFoundError:
            continue
    return found


def test_bare_install_brings_no_training_library():
    brought = closure(PROJECT["dependencies"])
    assert {"onnxruntime", "numpy", "av", "pillow", "protobuf"} <= brought
    assert brought & HEAVY == set()


def test_runtime_is_the_bare_install_and_development_has_everything():
    extras = PROJECT["optional-dependencies"]
    assert extras["runtime"] == []
    assert any("train" in line for line in extras["dev"] if line.startswith("mobilevd["))
    assert closure(extras["train"]) >= HEAVY


@pytest.mark.slow
def test_fresh_environment_without_torch_animates_a_photograph(tmp_path, tmp_path_factory):
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if uv is None:
        pytest.skip("no uv here: the fresh environment was not made")
    home = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    python = tmp_path / "venv" / "bin" / "python"
    source = tmp_path / "source"
    shutil.copytree(ROOT / "mobilevd", source / "mobilevd", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copyfile(ROOT / name, source / name)
    install = [uv, "pip", "install", "--python", python, "--constraint", ROOT / "constraints.txt"]
    subprocess.run([uv, "venv", "--python", sys.executable, tmp_path / "venv"], check=True, capture_output=True)
    done = subprocess.run([*install, f"{source}[runtime]"], capture_output=True, text=True, env=home)
    if done.returncode != 0:
        pytest.skip(f"the package registry did not give the runtime: {done.stderr[-300:]}")
    absent = "import importlib.util as u; print([n for n in ('torch', 'diffusers', 'mlflow') if u.find_spec(n)])"
    assert subprocess.run([python, "-c", absent], capture_output=True, text=True, env=home).stdout == "[]\n"
    Image.fromarray(texture(1, 120, 90)).save(tmp_path / "photo.jpg")
    words = ["generate", tmp_path / "photo.jpg", tmp_path / "out.mp4", "--model", whole_bundle.path(tmp_path_factory)]
    made = subprocess.run([python.with_name("mobilevd"), *words], capture_output=True, text=True, env=home)
    assert made.returncode == 0, made.stderr
    assert "with onnx, ready after" in made.stderr
    assert (tmp_path / "out.mp4").stat().st_size > 1000
