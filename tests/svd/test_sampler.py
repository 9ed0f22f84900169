"""The sampler is diffusers' on the same noise, step for step and as a whole; one step is the formula at σ_max."""

import math
from copy import deepcopy

import pytest
import tiny_svd
import torch
from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline, UNetSpatioTemporalConditionModel
from movies import texture
from PIL import Image
from svd_scheduler import SCHEDULER
from transformers import CLIPImageProcessor

from mobilevd.svd import autoencoder, conditioning, sampler
from mobilevd.svd.scheduler import Schedule

FRAMES = 3
SIZE = (16, 16)  # 2x2 at the deepest level: a group of one value has no spread, and its norm only magnifies rounding


@pytest.fixture(scope="module")
def unet():
    return tiny_svd.unet(num_frames=FRAMES)


def given(batch: int = 2):
    """Image latents, tokens, ids, noise."""
    g = torch.Generator().manual_seed(3)
    image, token = torch.randn(batch, 4, *SIZE, generator=g), torch.randn(batch, 1, 16, generator=g)
    noise = torch.randn(batch, FRAMES, 4, *SIZE, generator=g)
    return image, token, conditioning.added_ids(batch, 7.0, 127, 0.02), noise


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("above", [0.0, 1.0, 20.0, 700.0])
@torch.no_grad()
def test_three_steps_equal_diffusers_scheduler_with_guidance_over_frames(unet, above):
    image, token, ids, noise = given()
    made = sampler.sample(unet, image, token, ids, noise, steps=3, guidance=(1.0, 3.0), guidance_above=above)
    scheduler = EulerDiscreteScheduler(**SCHEDULER)
    scheduler.set_timesteps(3)
    x = noise * scheduler.init_noise_sigma
    guidance = torch.linspace(1.0, 3.0, FRAMES).view(1, FRAMES, 1, 1, 1)
    images = torch.cat([torch.zeros_like(image), image]).unsqueeze(1).repeat(1, FRAMES, 1, 1, 1)
    tokens = torch.cat([torch.zeros_like(token), token])
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas[:-1], strict=True):  # σ: 700, 15.6, 0.002
        scaled = scheduler.scale_model_input(torch.cat([x] * 2), t)
        v = unet(torch.cat([scaled, images], dim=2), t.expand(4), tokens, torch.cat([ids] * 2))
        without, with_image = v.chunk(2)
        guided = without + guidance * (with_image - without) if sigma > above else with_image
        x = scheduler.step(guided, t, x).prev_sample
    assert relative(made, x) < 1e-4
    unguided = sampler.sample(unet, image, token, ids, noise, steps=3, guidance=(1.0, 1.0))
    assert (relative(made, unguided) > 1e-3) == (above < 700.0)


@pytest.mark.parametrize(("above", "expected"), [(0.0, 6), (1.0, 5), (20.0, 4), (700.0, 3)])
def test_evaluations_are_as_many_as_are_told(unet, above, expected):
    rows: list[int] = []
    watch = unet.register_forward_pre_hook(lambda module, asked: rows.append(len(asked[0])))
    sampler.sample(unet, *given(1), steps=3, guidance_above=above)
    watch.remove()
    assert sum(rows) == sampler.evaluations(Schedule(), 3, above) == expected


@torch.no_grad()
def test_whole_path_from_a_photograph_equals_diffusers_pipeline(unet):
    """Encoders, ids, noise scale, guidance and steps together; no noise is added to the image on either side."""
    vae, tower = tiny_svd.vae(), tiny_svd.tower(image_size=224, patch_size=56)
    theirs = UNetSpatioTemporalConditionModel(**(tiny_svd.UNET | {"num_frames": FRAMES})).eval()
    theirs.load_state_dict(unet.state_dict())
    parts = {"scheduler": EulerDiscreteScheduler(**SCHEDULER), "feature_extractor": CLIPImageProcessor()}
    pipe = StableVideoDiffusionPipeline(vae=vae, image_encoder=tower, unet=theirs, **parts)
    pipe.set_progress_bar_config(disable=True)
    picture, (_, _, _, noise) = texture(1, 128, 128), given(batch=1)
    settings = {"num_inference_steps": 25, "fps": 7, "motion_bucket_id": 127, "noise_aug_strength": 0.0}
    settings |= {"min_guidance_scale": 1.0, "max_guidance_scale": 3.0, "output_type": "latent"}
    expected = pipe(Image.fromarray(picture), 128, 128, num_frames=FRAMES, latents=noise, **settings).frames
    images = torch.from_numpy(picture.copy()).permute(2, 0, 1).float().div(255)[None]
    condition = (autoencoder.encode(vae, images), conditioning.image_tokens(tower, images))
    ids = conditioning.added_ids(1, 7.0, 127, 0.0)
    made = sampler.sample(unet, *condition, ids, noise, steps=25, guidance=(1.0, 3.0))
    assert relative(made, expected) < 1e-3


@torch.no_grad()
def test_sample_of_a_clip_does_not_depend_on_its_neighbours(unet):
    image, token, ids, noise = (tensor.double() for tensor in given())
    unet = deepcopy(unet).double()
    together = sampler.sample(unet, image, token, ids, noise, steps=2)
    alone = sampler.sample(unet, image[1:], token[1:], ids[1:], noise[1:], steps=2)
    assert relative(together[1:], alone) < 1e-5


def test_every_step_is_told(unet):
    told: list[int] = []
    sampler.sample(unet, *given(1), steps=3, on_step=told.append)
    assert told == [0, 1, 2]


def test_sampling_keeps_no_gradients(unet):
    image, *rest = given(1)
    assert not sampler.sample(unet, image.requires_grad_(), *rest, steps=2).requires_grad


def test_noise_of_a_clip_depends_on_its_seed_alone():
    shape = (3, 4, 8, 8)
    batch = sampler.clip_noise([5, 6, 7], shape)
    assert torch.equal(batch[1:2], sampler.clip_noise([6], shape))
    assert torch.equal(batch.flip(0), sampler.clip_noise([7, 6, 5], shape))
    assert torch.equal(batch[0], torch.randn(shape, generator=torch.Generator().manual_seed(5)))
    assert not torch.equal(batch[0], batch[1])
    assert batch.std().item() == pytest.approx(1.0, abs=0.05)


@torch.no_grad()
def test_one_step_is_the_networks_estimate_at_sigma_max(unet):
    image, token, ids, noise = given()
    made = sampler.OneStep(unet)(noise, image, token, ids)
    s = 700.0
    x = s * noise
    images = image.unsqueeze(1).repeat(1, FRAMES, 1, 1, 1)
    F_x = unet(torch.cat([x / math.sqrt(s**2 + 1), images], dim=2), torch.full((2,), math.log(s) / 4), token, ids)
    assert relative(made, x / (s**2 + 1) - s / math.sqrt(s**2 + 1) * F_x) < 1e-5


def test_one_step_trains_its_network(unet):
    net = tiny_svd.unet(num_frames=FRAMES).requires_grad_(True)
    sampler.OneStep(net)(*(given()[i] for i in (3, 0, 1, 2))).square().mean().backward()
    missing = [name for name, p in net.named_parameters() if p.grad is None]
    assert all("attn2.to_q" in name or "attn2.to_k" in name or "norm2" in name for name in missing), missing


def test_one_step_adds_no_parameter_of_its_own(unet):
    names = set(sampler.OneStep(unet).state_dict())
    assert names == {f"unet.{name}" for name in unet.state_dict()}
