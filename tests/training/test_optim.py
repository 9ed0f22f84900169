import math
import sys

import pytest
import torch
from torch import nn

from mobilevd.errors import RecipeError
from mobilevd.settings import Optim
from mobilevd.training import optim
from mobilevd.training.checkpoints import Checkpoints
from mobilevd.training.optim import Group


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
    optimizer = optim.make([Group([network.weight], 0.1), Group([network.bias], 0.02)], Optim(lr=0.1))
    optim.set_share(optimizer, 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == [0.05, 0.01]


def test_a_step_is_adamws_own(linear):
    network, w0 = linear(), linear().weight.detach()
    settings = Optim(lr=0.1, betas=(0.5, 0.99), weight_decay=0.2)
    optimizer = optim.make([Group([network.weight], settings.lr, settings.weight_decay)], settings)
    network.weight.grad = torch.full_like(w0, 3.0)
    optimizer.step()
    torch.testing.assert_close(network.weight.detach(), w0 * (1 - 0.1 * 0.2) - 0.1 * 3.0 / (3.0 + 1e-8))


def test_state_packed_and_unpacked_continues_alike(linear):
    def moved(network, optimizer, times):
        for k in range(times):
            network.weight.grad = torch.full_like(network.weight, 1.0 + k)
            optimizer.step()

    make = lambda network: optim.make([Group([network.weight], 0.1)], Optim(lr=0.1))  # noqa: E731
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


@pytest.mark.parametrize(("kind", "lr"), [("adamw", 3e-3), ("muon", 6e-3), ("sm3", 3e-3), ("adamw_8bit", 3e-3)])
def test_every_optimizer_learns_and_goes_on_alike_from_its_checkpoint(kind, lr, tmp_path):
    """128 x 128: from 4096 elements on, bitsandbytes keeps 8 bits of each."""
    pytest.importorskip(optim.LIBRARY.get(kind, ("torch",))[0])
    settings, goal = Optim(lr=lr, kind=kind, betas=(0.5, 0.9)), torch.full((128, 128), 0.01)

    def steps(network, optimizer, times):
        for _ in range(times):
            loss = (network.weight - goal).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return float(loss.detach())

    torch.manual_seed(0)
    one, other = nn.Linear(128, 128), nn.Linear(128, 128)
    first, second = (optim.make(optim.groups(network, settings), settings) for network in (one, other))
    start = float((one.weight - goal).square().mean().detach())
    assert steps(one, first, 5) < 0.9 * start
    Checkpoints(tmp_path, "t").save(5, {"optimizer": optim.pack(first), "network": one.state_dict()}, {})
    saved = Checkpoints(tmp_path, "t").newest().tensors
    other.load_state_dict(saved["network"])
    optim.unpack(second, saved["optimizer"])
    steps(one, first, 3)
    steps(other, second, 3)
    assert torch.equal(one.weight, other.weight)


def test_lean_optimizers_keep_less_than_adamw():
    network = nn.Linear(128, 128, bias=False)
    kept = {}
    for kind in ("adamw", "sm3"):
        settings = Optim(lr=1e-3, kind=kind)
        optimizer = optim.make([Group(list(network.parameters()), 1e-3)], settings)
        network.weight.grad = torch.ones_like(network.weight)
        optimizer.step()
        kept[kind] = sum(t.numel() for t in optim.pack(optimizer).values())
    assert kept["sm3"] < 0.6 * kept["adamw"]


def test_rates_go_by_name_the_first_that_matches_and_zero_freezes():
    network = nn.ModuleDict({"temporal_a": nn.Linear(2, 2), "spatial_a": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    settings = Optim(
        lr=0.1,
        rates=({"match": "head.*bias", "lr": 0.3}, {"match": "^temporal", "lr": 0.2}, {"match": "spat", "lr": 0.0}),
    )
    groups = {group.lr: len(group.params) for group in optim.groups(network, settings)}
    assert groups == {0.3: 1, 0.2: 2, 0.1: 1}
    assert [name for name, p in network.named_parameters() if not p.requires_grad] == [
        "spatial_a.weight",
        "spatial_a.bias",
    ]


def test_a_rate_without_a_parameter_and_a_training_of_nothing_are_refused():
    network = nn.Linear(2, 2)
    with pytest.raises(RecipeError, match="A rate matches no parameter"):
        optim.groups(network, Optim(lr=0.1, rates=({"match": "temporal", "lr": 0.2},)))
    with pytest.raises(RecipeError, match="No parameter is left to train"):
        optim.groups(network, Optim(lr=0.1, rates=({"match": ".", "lr": 0.0},)))


def test_a_library_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(RecipeError, match="pip install bitsandbytes"):
        optim.make([Group(list(nn.Linear(2, 2).parameters()), 0.1)], Optim(lr=0.1, kind="adamw_8bit"))
