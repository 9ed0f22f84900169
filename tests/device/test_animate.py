"""Without torch a photograph becomes the clip that torch makes of it, and a changed file is refused."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import whole_bundle
from movies import texture
from PIL import Image

from mobilevd.artifacts import seal
from mobilevd.device.animate import FLOAT, OnnxPipeline
from mobilevd.errors import IntegrityError, MobileVDError
from mobilevd.pipeline import MobileVDPipeline

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return whole_bundle.path(tmp_path_factory)


@pytest.fixture(scope="module")
def onnx(bundle) -> OnnxPipeline:
    return OnnxPipeline.from_pretrained(bundle, FLOAT)


@pytest.fixture
def copy(bundle, tmp_path) -> Path:
    return shutil.copytree(bundle, tmp_path / "copy")


def in_torch(bundle: Path, photo: np.ndarray, **options) -> np.ndarray:
    image = torch.tensor(photo).permute(2, 0, 1)
    made = MobileVDPipeline.from_pretrained(bundle)(image, **options)
    return made.frames.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (201, 67), (33, 120)])
def test_frames_are_torchs_to_one_grey_level(onnx, bundle, height, width):
    photo = texture(3, height, width)
    options = {"seed": 2**32 + 5, "fps": 9.0, "motion_bucket": 30}
    made, expected = onnx(photo, **options), in_torch(bundle, photo, **options)
    assert made.frames.shape == expected.shape == (whole_bundle.FRAMES, 64, 64, 3)
    assert np.abs(made.frames.astype(int) - expected).max() <= 1
    assert (made.frames == expected).mean() > 0.99
    assert made.fps == 9.0


def test_image_seed_rate_and_motion_are_all_seen(onnx):
    photo = texture(3, 64, 64)
    clips = [onnx(photo), onnx(photo, seed=1), onnx(photo, fps=20.0), onnx(photo, motion_bucket=0)]
    clips.append(onnx(texture(4, 64, 64)))
    assert len({clip.frames.tobytes() for clip in clips}) == 5
    assert np.array_equal(onnx(photo).frames, clips[0].frames)


@pytest.mark.parametrize("name", ["ends/decoder.onnx", "onnx/quantized.onnx", "pipeline.json"])
def test_changed_byte_is_refused_by_the_files_name(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(IntegrityError, match=name):
        OnnxPipeline.from_pretrained(copy)


def test_bundle_without_its_ends_is_refused_and_says_what_is_missing(copy):
    shutil.rmtree(copy / "ends")
    seal(copy)
    with pytest.raises(IntegrityError, match=r"ends/frame_encoder\.onnx, ends/image_encoder\.onnx, ends/decoder\.onnx"):
        OnnxPipeline.from_pretrained(copy)


def test_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(MobileVDError, match="no bundle"):
        OnnxPipeline.from_pretrained(tmp_path)


BARE = """
import sys
absent = ["torch", "diffusers", "transformers", "safetensors", "mlflow", "metaflow", "onnx", "scipy", "boto3", "dvc"]
for name in absent:
    sys.modules[name] = None  # what tries to import it fails
from mobilevd.cli import main
main()
"""


def test_command_line_animates_in_a_process_that_cannot_import_torch(onnx, bundle, tmp_path):
    Image.fromarray(texture(3, 64, 64)).save(tmp_path / "photo.png")
    words = ["generate", tmp_path / "photo.png", tmp_path / "out.gif", "--model", bundle, "--backend", "onnx"]
    done = subprocess.run([sys.executable, "-c", BARE, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "with onnx, ready after" in done.stderr
    with Image.open(tmp_path / "out.gif") as film:
        assert (film.n_frames, film.size) == (whole_bundle.FRAMES, (64, 64))


def test_command_that_needs_what_is_not_installed_says_so_without_a_traceback(tmp_path):
    words = ["generate", str(tmp_path), str(tmp_path / "out"), "--model", "models:/mobilevd/1", "--backend", "onnx"]
    Image.fromarray(texture(3, 8, 8)).save(tmp_path / "photo.png")
    done = subprocess.run([sys.executable, "-c", BARE, *words], capture_output=True, text=True)
    assert done.returncode == 1
    assert "\nThis needs mlflow, which is not installed\n  where:   pip install 'mobilevd[train]'" in done.stderr
    assert "Traceback" not in done.stderr
