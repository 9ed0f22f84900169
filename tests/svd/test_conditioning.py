"""The image token equals diffusers' own, and the ids are fps − 1, motion bucket, noise augmentation."""

import numpy as np
import pytest
import tiny_svd
import torch
from diffusers import StableVideoDiffusionPipeline
from movies import texture
from PIL import Image
from transformers import CLIPImageProcessor

from mobilevd.svd import conditioning


@pytest.fixture(scope="module")
def tower():
    """SVD's input size; diffusers' pipeline knows no other."""
    return tiny_svd.tower(image_size=224, patch_size=56)


@pytest.fixture(scope="module")
def pipeline(tower):
    parts = {"vae": tiny_svd.vae(), "unet": None, "scheduler": None}
    return StableVideoDiffusionPipeline(image_encoder=tower, feature_extractor=CLIPImageProcessor(), **parts)


def picture(seed: int, height: int, width: int) -> Image.Image:
    return Image.fromarray(texture(seed, height, width))


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)


@pytest.mark.parametrize("size", [(256, 512), (576, 1024), (64, 128)])
@torch.no_grad()
def test_token_equals_diffusers_on_a_photograph(tower, pipeline, size):
    image = picture(1, *size)
    expected = pipeline._encode_image(image, "cpu", 1, False)
    made = conditioning.image_tokens(tower, as_tensor(image)[None])
    assert made.shape == (1, 1, 16)
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_tokens_of_a_batch_are_each_images_own(tower):
    images = torch.stack([as_tensor(picture(seed, 64, 128)) for seed in (1, 2)])
    made = conditioning.image_tokens(tower, images)
    alone = torch.cat([conditioning.image_tokens(tower, image[None]) for image in images])
    torch.testing.assert_close(made, alone, rtol=1e-5, atol=1e-5)
    assert (made[0] - made[1]).abs().max() > 1e-3


@torch.no_grad()
def test_half_precision_tower_takes_single_precision_images():
    tower = tiny_svd.tower().to(torch.bfloat16)
    made = conditioning.image_tokens(tower, as_tensor(picture(1, 64, 128))[None])
    assert made.dtype == torch.bfloat16


def test_ids_are_fps_less_one_bucket_and_augmentation():
    ids = conditioning.added_ids(2, 7.0, 127, 0.02)
    torch.testing.assert_close(ids, torch.tensor([[6.0, 127.0, 0.02]] * 2))


def test_ids_equal_what_diffusers_feeds_for_seven_frames_a_second():
    pipe = StableVideoDiffusionPipeline(
        vae=tiny_svd.vae(), image_encoder=None, unet=tiny_svd.unet(), scheduler=None, feature_extractor=None
    )
    theirs = pipe._get_add_time_ids(7 - 1, 127, 0.02, torch.float32, 3, 1, False)
    torch.testing.assert_close(conditioning.added_ids(3, 7.0, 127, 0.02), theirs)


def test_the_usual_clip_has_the_usual_bucket_half_its_motion_half_and_much_motion_the_last():
    assert conditioning.motion_buckets([0.02, 0.01, 0.005, 0.5, 0.0]) == [254, 127, 64, 255, 0]
    assert conditioning.motion_buckets([0.0, 0.0]) == [0, 0]
