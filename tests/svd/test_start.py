"""Where one evaluation starts: SVD's σ_max and noise alone, unless the network says otherwise."""

import small_recipes
import torch
from torch import nn

from mobilevd.settings import Distill
from mobilevd.svd import start
from mobilevd.svd.start import Start


def test_a_network_that_says_nothing_starts_at_sigma_max_from_noise_alone():
    noise, image = torch.randn(2, 3, 4, 8, 8), torch.randn(2, 4, 8, 8)
    assert torch.equal(start.of(nn.Identity())(noise, image), 700.0 * noise)
    assert start.of(nn.Identity()).sigma == 700.0


def test_the_still_clip_lies_under_the_noise_of_every_frame():
    noise, image = torch.randn(2, 3, 4, 8, 8), torch.randn(2, 4, 8, 8)
    x = Start(2.0, 0.5)(noise, image)
    for frame in range(3):
        torch.testing.assert_close(x[:, frame], 2 * noise[:, frame] + image / 2)


def test_a_start_has_no_weights_and_tells_its_numbers():
    assert list(Start(2.0, 0.5).state_dict()) == []
    assert "sigma=2.0, image_scale=0.5" in repr(Start(2.0, 0.5))
    assert repr(Start(2.0, 0.5)) != repr(Start(2.00000001, 0.5))


def test_the_default_is_where_a_recipe_says_that_it_starts():
    assert Distill(adversarial=small_recipes.smallest()["distill"]["adversarial"]).start_sigma == start.NOISE.sigma
