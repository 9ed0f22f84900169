"""Pixels to latents and back: the posterior's mode, SVD's scale, and space-to-depth pixels of any side."""

import pytest
import tiny_svd
import torch

from mobilevd.svd import autoencoder

PATCHED = {  # the pocket base's form: one level on 16x16 space-to-depth pixels
    "in_channels": 768,
    "out_channels": 768,
    "latent_channels": 8,
    "block_out_channels": (32,),
    "down_block_types": ("DownEncoderBlock2D",),
}


@pytest.fixture(scope="module")
def svd():
    return tiny_svd.vae()


@pytest.fixture(scope="module")
def patched():
    return tiny_svd.vae(**PATCHED)


def pixels(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def space_to_depth(x: torch.Tensor, p: int) -> torch.Tensor:
    """B 3 H W → B 3p² H/p W/p: colour first, then the row and the column inside the square."""
    b, c, h, w = x.shape
    return x.reshape(b, c, h // p, p, w // p, p).permute(0, 1, 3, 5, 2, 4).reshape(b, c * p * p, h // p, w // p)


def test_downscale_is_eight_for_svds_four_levels_and_sixteen_for_the_pockets_one(svd, patched):
    assert (autoencoder.patch_size(svd), autoencoder.downscale(svd)) == (1, 8)
    assert (autoencoder.patch_size(patched), autoencoder.downscale(patched)) == (16, 16)


@pytest.mark.parametrize(("form", "channels", "side"), [("svd", 4, 8), ("patched", 8, 16)])
@torch.no_grad()
def test_round_trip_has_the_latents_and_the_clips_shape(form, channels, side, request):
    vae = request.getfixturevalue(form)
    raw = autoencoder.encode(vae, pixels(3, 3, 64, 128))
    assert raw.shape == (3, channels, 64 // side, 128 // side)
    video = autoencoder.decode(vae, (raw * vae.config.scaling_factor)[None])
    assert video.shape == (1, 3, 3, 64, 128)
    assert video.dtype == torch.float32
    assert 0 <= video.min() < video.max() <= 1


@pytest.mark.parametrize(("form", "p"), [("svd", 1), ("patched", 16)])
@torch.no_grad()
def test_encode_is_the_mode_of_the_posterior_and_unscaled(form, p, request):
    vae, images = request.getfixturevalue(form), pixels(2, 3, 64, 64)
    mean, _ = vae.quant_conv(vae.encoder(space_to_depth(2 * images - 1, p))).chunk(2, dim=1)
    torch.testing.assert_close(autoencoder.encode(vae, images), mean, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_encode_does_not_depend_on_how_many_images_go_at_once(svd):
    images = pixels(5, 3, 64, 64)
    whole = autoencoder.encode(svd, images, chunk=5)
    torch.testing.assert_close(autoencoder.encode(svd, images, chunk=2), whole, rtol=1e-4, atol=1e-5)
    assert len(whole) == 5


@torch.no_grad()
def test_decode_divides_by_the_scaling_factor_and_maps_to_unit_range(svd):
    latents = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    seen = autoencoder.decode(svd, latents)
    for clip, made in zip(latents, seen, strict=True):
        expected = svd.decode(clip / 0.18215, num_frames=3).sample / 2 + 0.5
        torch.testing.assert_close(made, expected.clamp(0, 1), rtol=1e-5, atol=1e-6)
    assert svd.config.scaling_factor == 0.18215


@torch.no_grad()
def test_clips_of_a_batch_do_not_see_each_other(svd):
    latents = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    together = autoencoder.decode(svd, latents)
    torch.testing.assert_close(together[1:], autoencoder.decode(svd, latents[1:]), rtol=1e-5, atol=1e-6)
    frames = autoencoder.decode(svd, latents[:1, :1])
    assert (frames[0, 0] - together[0, 0]).abs().max() > 1e-3, "frames of one clip do"


@torch.no_grad()
def test_decoded_squares_lie_where_encoded_ones_were(patched):
    latents = torch.randn(1, 2, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    depth = patched.decode(latents[0] / patched.config.scaling_factor, num_frames=2).sample / 2 + 0.5
    torch.testing.assert_close(space_to_depth(autoencoder.decode(patched, latents)[0], 16), depth.clamp(0, 1))


@torch.no_grad()
def test_values_beyond_the_range_are_cut():
    vae = tiny_svd.vae()
    vae.decoder.time_conv_out.bias += torch.tensor([9.0, -9.0, 0.0])
    video = autoencoder.decode(vae, torch.randn(1, 2, 4, 8, 8, generator=torch.Generator().manual_seed(1)))
    assert (video[:, :, 0] == 1).all()
    assert (video[:, :, 1] == 0).all()
    assert 0 < video[:, :, 2].min() < video[:, :, 2].max() < 1
