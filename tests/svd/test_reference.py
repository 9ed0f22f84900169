"""The facts about SVD make the networks that its configuration files describe."""

from mobilevd.svd import reference
from mobilevd.svd.autoencoder import downscale


def test_networks_hold_no_weights_and_have_the_published_sizes():
    unet, tower, vae = reference.unet(), reference.image_encoder(), reference.autoencoder()
    counts = [sum(p.numel() for p in network.parameters()) for network in (unet, tower, vae)]
    assert [round(n / 1e6, 1) for n in counts] == [1524.6, 632.1, 97.7]
    for network in (unet, tower, vae):
        assert {p.device.type for p in network.parameters()} == {"meta"}
    assert (downscale(vae), unet.config.in_channels) == (8, 2 * vae.config.latent_channels)
    assert tower.config.projection_dim == unet.config.cross_attention_dim
