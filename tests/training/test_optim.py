import math

import pytest
import torch

from mobilevd.params import Optim
from mobilevd.training import optim


def test_warm_up_is_linear_and_then_constant():
    settings = Optim(lr=1.0, warmup_steps=4)
    assert [optim.share(k, 10, settings) for k in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_falls_from_one_to_almost_nothing():
    settings = Optim(lr=1.0, warmup_steps=2, schedule="cosine")
    assert optim.share(2, 10, settings) == 1.0
    assert optim.share(6, 10, settings) == pytest.approx(0.5)
    assert optim.share(9, 10, settings) == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 8)))


def test_every_group_gets_the_share_of_its_own_peak(linear):
    network = linear()
    optimizer = optim.make([([network.weight], 0.1), ([network.bias], 0.02)], Optim(lr=0.1))
    optim.set_share(optimizer, 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == [0.05, 0.01]


def test_a_step_is_adamws_own(linear):
    network, w0 = linear(), linear().weight.detach()
    settings = Optim(lr=0.1, betas=(0.5, 0.99), weight_decay=0.2)
    optimizer = optim.make([([network.weight], settings.lr)], settings)
    network.weight.grad = torch.full_like(w0, 3.0)
    optimizer.step()
    torch.testing.assert_close(network.weight.detach(), w0 * (1 - 0.1 * 0.2) - 0.1 * 3.0 / (3.0 + 1e-8))


def test_state_packed_and_unpacked_continues_alike(linear):
    def moved(network, optimizer, times):
        for k in range(times):
            network.weight.grad = torch.full_like(network.weight, 1.0 + k)
            optimizer.step()

    make = lambda network: optim.make([([network.weight], 0.1)], Optim(lr=0.1))  # noqa: E731
    one, other = linear(), linear()
    first, second = make(one), make(other)
    moved(one, first, 3)
    packed = optim.pack(first)
    assert all(isinstance(t, torch.Tensor) for t in packed.values())
    with torch.no_grad():
        other.weight.copy_(one.weight)
    optim.unpack(second, {name: t.clone() for name, t in packed.items()})
    moved(one, first, 2)
    moved(other, second, 2)
    assert torch.equal(one.weight, other.weight)
