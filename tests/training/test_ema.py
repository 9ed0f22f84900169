import pytest
import torch
from torch import nn

from mobilevd.training.ema import Ema


def test_the_average_follows_its_formula(linear):
    network = linear()
    ema, expected = Ema(network, 0.5), network.weight.detach().clone()
    for n in range(8):
        with torch.no_grad():
            network.weight.add_(1.0)
        ema.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * network.weight.detach()
    torch.testing.assert_close(ema.average["weight"], expected)


def test_swapping_shows_the_average_and_gives_the_weights_back_bit_for_bit(linear):
    network = linear()
    ema, own = Ema(network, 0.9), network.weight.detach().clone() + 1
    with torch.no_grad():
        network.weight.add_(1.0)
    average = ema.average["weight"].clone()

    def fail_inside():
        with ema.swapped():
            assert torch.equal(network.weight, average)
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert torch.equal(network.weight, own)
    assert torch.equal(ema.average["weight"], average)


def test_the_average_is_left_in_the_module_for_good(linear):
    network = linear()
    ema, start = Ema(network, 0.9), network.weight.detach().clone()
    with torch.no_grad():
        network.weight.zero_()
    ema.copy_to_module()
    assert torch.equal(network.weight, start)
    assert ema.average["weight"].data_ptr() != network.weight.data_ptr()


def test_frozen_parameters_are_not_averaged():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[0].requires_grad_(False)
    assert set(Ema(network, 0.9).average) == {"1.weight", "1.bias"}
