"""A bundle is checked byte by byte and animates an image of any size, the same seed the same way; nothing trains."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_svd
import torch
from movies import texture
from PIL import Image

from mobilevd.errors import IntegrityError, MobileVDError
from mobilevd.pipeline import MobileVDPipeline
from mobilevd.svd import autoencoder, conditioning
from mobilevd.svd.sampler import OneStep, clip_noise

FRAMES, SIDE = 3, 64


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return tiny_svd.write_bundle(tmp_path_factory.mktemp("bundles") / "bundle", frames=FRAMES, fps=7.5).path


@pytest.fixture(scope="module")
def pipeline(bundle) -> MobileVDPipeline:
    return MobileVDPipeline.from_pretrained(bundle)


@pytest.fixture
def copy(bundle, tmp_path) -> Path:
    return shutil.copytree(bundle, tmp_path / "copy")


def photo(seed: int = 1, height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    return torch.from_numpy(texture(seed, height, width).copy()).permute(2, 0, 1).contiguous()


def test_image_becomes_a_clip_of_the_bundles_size_and_rate(pipeline):
    made = pipeline(photo())
    assert made.frames.dtype == torch.uint8
    assert made.frames.shape == (FRAMES, 3, SIDE, SIDE)
    assert made.frames.float().std() > 1
    assert made.fps == 7.5


def test_same_seed_gives_the_same_bits_and_another_seed_another_clip(pipeline, bundle):
    first = pipeline(photo(), seed=3).frames
    assert torch.equal(first, pipeline(photo(), seed=3).frames)
    assert torch.equal(first, MobileVDPipeline.from_pretrained(bundle)(photo(), seed=3).frames)
    assert not torch.equal(first, pipeline(photo(), seed=4).frames)


def test_image_is_seen(pipeline):
    assert not torch.equal(pipeline(photo(1)).frames, pipeline(photo(2)).frames)


@torch.no_grad()
def test_clip_is_one_evaluation_of_the_stored_network_on_the_encoded_image(pipeline, bundle):
    image = photo()[None].float() / 255
    vae, tower = tiny_svd.vae(), tiny_svd.tower()
    ids = torch.tensor([[7.5 - 1, 127.0, 0.02]])
    condition = (autoencoder.encode(vae, image), conditioning.image_tokens(tower, image), ids)
    latents = OneStep(pipeline.step.unet)(clip_noise([3], (FRAMES, 4, 8, 8)), *condition)
    expected = autoencoder.decode(vae, latents)[0].mul(255).round()
    assert (pipeline(photo(), seed=3).frames.float() - expected).abs().max() <= 1


def told(pipeline, **options) -> list[float]:
    """The added ids that the network is given."""
    seen = []
    hook = pipeline.step.register_forward_pre_hook(lambda _, args: seen.append(args[3]))
    pipeline(photo(), **options)
    hook.remove()
    return seen[0][0].tolist()


def test_rate_and_motion_are_told_to_the_network_and_default_to_the_bundles(pipeline):
    assert told(pipeline) == pytest.approx([6.5, 127.0, 0.02])
    assert told(pipeline, fps=12.0, motion_bucket=0) == pytest.approx([11.0, 0.0, 0.02])
    assert pipeline(photo(), fps=12.0).fps == 12.0


@pytest.mark.parametrize(("height", "width"), [(64, 200), (300, 80), (16, 16), (65, 63)])
def test_image_of_any_size_is_covered_and_cut_at_its_centre(pipeline, height, width):
    given, seen = photo(1, height, width), []
    hook = pipeline.base.vae.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    pipeline(given)
    hook.remove()
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(given.permute(1, 2, 0).numpy()).crop((left, top, left + side, top + side))
    expected = np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).transpose(2, 0, 1) / 127.5 - 1
    assert seen[0].shape == (1, 3, SIDE, SIDE)
    assert np.abs(seen[0][0].numpy() - expected).mean() < 0.03


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_changed_byte_in_any_file_is_refused(copy):
    names = files(copy)
    assert len(names) >= 8
    for name in names:
        before = (copy / name).read_bytes()
        data = bytearray(before)
        data[len(data) // 2] ^= 1
        (copy / name).write_bytes(data)
        with pytest.raises(IntegrityError):
            MobileVDPipeline.from_pretrained(copy)
        (copy / name).write_bytes(before)
    MobileVDPipeline.from_pretrained(copy)


@pytest.mark.parametrize("name", ["unet/surgery.json", "vae/diffusion_pytorch_model.safetensors", "manifest.json"])
def test_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(IntegrityError, match=name):
        MobileVDPipeline.from_pretrained(copy)


def test_folder_that_is_no_bundle_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(MobileVDError, match=r"no bundle(.|\n)*pipeline\.json"):
            MobileVDPipeline.from_pretrained(folder)


def test_fresh_process_imports_no_training_evaluation_or_tracking():
    """accelerate is not in the list: diffusers imports it wherever it is installed."""
    script = "import sys, json, mobilevd.pipeline; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "mobilevd.svd.unet" in loaded
    ours = {"training", "evaluation", "device", "registry", "stages"}
    assert not {f"mobilevd.{name}" for name in ours} & loaded
    assert not {"mlflow", "metaflow", "onnxruntime", "great_expectations", "dvc", "matplotlib", "pandas"} & loaded
