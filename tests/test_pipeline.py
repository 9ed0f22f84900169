"""A bundle is checked byte by byte and animates an image of any size, the same seed the same way; nothing trains."""

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
from safetensors.torch import load_file, save_file

from mobilevd.errors import IntegrityError, MobileVDError
from mobilevd.method import surgery
from mobilevd.pipeline import MobileVDPipeline
from mobilevd.svd import autoencoder, conditioning
from mobilevd.svd.sampler import OneStep, clip_noise
from mobilevd.video.decode import UnusableError

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


def test_file_picture_and_tensor_of_a_photograph_make_the_same_clip(pipeline, tmp_path):
    picture = Image.fromarray(photo(height=48, width=80).permute(1, 2, 0).numpy())
    picture.save(tmp_path / "photo.png")
    expected = pipeline(photo(height=48, width=80)).frames
    for given in (str(tmp_path / "photo.png"), tmp_path / "photo.png", picture):
        assert torch.equal(pipeline(given).frames, expected)
    shown, hidden = picture.convert("RGBA"), picture.rotate(180).convert("RGBA")
    hidden.putalpha(0)
    shown.paste(hidden.crop((0, 0, 40, 48)), (0, 0))
    white = picture.copy()
    white.paste("white", (0, 0, 40, 48))
    assert torch.equal(pipeline(shown).frames, pipeline(white).frames)
    assert not torch.equal(pipeline(white).frames, expected)
    (tmp_path / "text.png").write_text("no photograph")
    with pytest.raises(UnusableError):
        pipeline(tmp_path / "text.png")


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


def test_a_pipeline_that_was_sent_somewhere_computes_there_and_fetches_the_frames(bundle):
    sent = MobileVDPipeline.from_pretrained(bundle).to("meta")
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        sent(photo())


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


PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean absolute difference of two clips in grey levels."""
    return (a.float() - b.float()).abs().mean().item()


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_network_computes_in_the_precision_asked_for_and_makes_nearly_the_same_clip(pipeline, bundle, name):
    asked = MobileVDPipeline.from_pretrained(bundle, dtype=PRECISIONS[name])
    assert {p.dtype for p in asked.step.unet.parameters()} == {PRECISIONS[name]}
    made, expected = asked(photo(), seed=3).frames, pipeline(photo(), seed=3).frames
    assert 0 < difference(made, expected) < 2
    assert difference(made, pipeline(photo(), seed=4).frames) > 2 * difference(made, expected)


ANIMATE = """
import sys
trains = ["mobilevd.training", "mobilevd.evaluation", "mobilevd.device", "mobilevd.registry", "mobilevd.stages"]
trains += ["accelerate", "mlflow", "metaflow", "onnx", "onnxruntime", "great_expectations", "dvc", "pandas"]
trains += ["matplotlib"]
for name in trains:
    sys.modules[name] = None  # what tries to import it fails, and diffusers, which would where it can, does without
import mobilevd.pipeline
assert "mobilevd.svd.unet" in sys.modules
assert not [name for name, module in sys.modules.items() if name.split(".")[0] in trains and module is not None]
assert not [name for name in sys.modules if name.startswith(tuple(f"{name}." for name in trains))]
from safetensors.torch import load_file, save_file
*folders, photo, out = sys.argv[1:]
image, clips = load_file(photo)["photo"], {}
for folder in folders:
    pipeline = mobilevd.pipeline.MobileVDPipeline.from_pretrained(folder)
    clips[str(pipeline.step.unet.dtype)] = pipeline(image, seed=3).frames
save_file(clips, out)
"""


def test_fresh_process_without_training_evaluation_or_tracking_animates_in_every_stored_precision(pipeline, tmp_path):
    folders = [tiny_svd.write_bundle(tmp_path / n, FRAMES, 7.5, dtype=d).path for n, d in PRECISIONS.items()]
    save_file({"photo": photo()}, tmp_path / "photo")
    words = [sys.executable, "-W", "ignore", "-c", ANIMATE, *folders, tmp_path / "photo", tmp_path / "clips"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    clips, expected = load_file(tmp_path / "clips"), pipeline(photo(), seed=3).frames
    assert list(clips) == sorted(f"torch.{name}" for name in PRECISIONS)
    assert torch.equal(clips["torch.float32"], expected)
    assert all(difference(clip, expected) < 2 for clip in clips.values())
    assert len({clip.numpy().tobytes() for clip in clips.values()}) == 3


def test_changed_and_swapped_tensors_of_the_network_are_named(copy):
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    before = load_file(weights)
    a, b = (f"down_blocks.{level}.attentions.0.proj_in.weight" for level in (0, 1))
    for tensors, told in (
        ({**before, a: before[a] + 1}, rf"{a} holds other bytes"),
        ({**before, a: before[b], b: before[a]}, rf"{a} holds the bytes of {b}; {b} holds the bytes of {a}"),
    ):
        save_file(tensors, weights)
        with pytest.raises(IntegrityError, match=told):
            MobileVDPipeline.from_pretrained(copy)


def test_a_description_made_to_fit_changed_weights_is_refused(copy):
    unet, log = surgery.load(copy)
    with torch.no_grad():
        unet.conv_in.bias.add_(1)
    surgery.save(unet, log, copy)
    with pytest.raises(IntegrityError, match=r"changed since it was sealed"):
        MobileVDPipeline.from_pretrained(copy)
