import pytest
import torch
from torch import nn

from mobilevd.settings import Optim, Training
from mobilevd.training.engine import Engine
from mobilevd.training.learner import Learner, NonFiniteError
from mobilevd.training.optim import Group


@pytest.fixture
def learn(linear):
    def make(module=None, settings=None, **options):
        return Learner("network", module or linear(), settings or Optim(lr=0.1), 10, Engine(Training()), **options)

    return make


def _loss(module):
    return module(torch.ones(1, 4)).square().sum()


def _move(learner, loss, step):
    learner.gather(loss, step)
    return learner.move(step, learner.ready(step))


def test_only_the_groups_parameters_move(learn, linear):
    both = nn.Sequential(linear(), linear(1))
    both[0].requires_grad_(False)
    before = {n: p.detach().clone() for n, p in both.named_parameters()}
    learner = learn(both)
    _move(learner, _loss(both), 0)
    moved = {n for n, p in both.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"1.weight", "1.bias"}
    assert all(p.grad is None for p in both.parameters())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_a_weight_moves(learn, bad):
    learner = learn()
    before = learner.module.weight.detach().clone()
    with pytest.raises(NonFiniteError, match="step 4 of 10"):
        _move(learner, _loss(learner.module) * bad, 3)
    assert torch.equal(learner.module.weight, before)


def test_a_gradient_that_is_not_finite_stops_before_a_weight_moves(learn):
    learner = learn()
    before = learner.module.weight.detach().clone()
    zero = (learner.module.weight * 0).square().sum()
    with pytest.raises(NonFiniteError, match="gradient norm"):
        _move(learner, zero.sqrt(), 0)  # the root's slope at zero is infinite, its value is not
    assert torch.equal(learner.module.weight, before)


def test_fp16_leaves_out_a_step_that_overflowed_and_lowers_its_scale(linear):
    learner = Learner("network", linear(), Optim(lr=0.1), 10, Engine(Training(precision="fp16")))
    before, scale = learner.module.weight.detach().clone(), learner.state()["scaler"]["scale"]
    assert set(_move(learner, _loss(learner.module) * 1e35, 0)) == {"lr", "loss_scale"}
    assert torch.equal(learner.module.weight, before)
    assert learner.state()["scaler"]["scale"] == scale / 2
    assert _move(learner, _loss(learner.module), 1)["grad_norm"] > 0
    assert not torch.equal(learner.module.weight, before)


def test_gradients_are_clipped_and_the_norm_before_is_told(learn, linear):
    settings = Optim(lr=0.1, betas=(0.0, 0.0), max_grad_norm=1e-3)
    free, held = learn(linear()), learn(linear(), settings)
    norms = [_move(learner, 100 * _loss(learner.module), 0)["grad_norm"] for learner in (free, held)]
    assert norms[0] == pytest.approx(norms[1])
    second_moment = (
        held.tensors()["network-optimizer"]["0.exp_avg_sq"].sum()
        + held.tensors()["network-optimizer"]["1.exp_avg_sq"].sum()
    )
    assert float(second_moment.sqrt()) == pytest.approx(1e-3, rel=1e-2)


def test_groups_have_rates_of_their_own(learn, linear):
    network = linear()
    before = [p.detach().clone() for p in network.parameters()]
    learner = learn(network, groups=[Group([network.weight], 0.1), Group([network.bias], 0.01)])
    _move(learner, _loss(network), 0)
    steps = [float((p - b).detach().abs().max()) for p, b in zip(network.parameters(), before, strict=True)]
    assert steps == pytest.approx([0.1, 0.01], rel=1e-2)


def test_a_loaded_learner_continues_alike(learn, linear):
    one, other = learn(linear(), ema_decay=0.9), learn(linear(1), ema_decay=0.9)
    for k in range(3):
        _move(one, _loss(one.module), k)
    files = {name: {k: t.clone() for k, t in named.items()} for name, named in one.tensors().items()}
    other.load(files, one.state())
    for k in range(3, 5):
        _move(one, _loss(one.module), k)
        _move(other, _loss(other.module), k)
    assert torch.equal(one.module.weight, other.module.weight)
    assert torch.equal(one.ema.average["weight"], other.ema.average["weight"])
