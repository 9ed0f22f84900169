import pytest
import torch
from torch import nn

from mobilevd.training.muon import Muon, orthogonal

LR, MOMENTUM, DECAY = 0.01, 0.95, 0.1


def gradients(shape, count=4):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def moved(start, optimizer, grads):
    """How far ``start`` goes under ``grads``."""
    weight = nn.Parameter(start.clone())
    stepper = optimizer([weight])
    for grad in grads:
        weight.grad = grad.clone()
        stepper.step()
        assert torch.equal(weight.grad, grad)
    return weight.detach() - start


def ours(params):
    return Muon(params, lr=LR, betas=(MOMENTUM, 0.98), weight_decay=DECAY)


def torch_s(params):
    return torch.optim.Muon(params, lr=LR, momentum=MOMENTUM, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")


def adamw(params):
    return torch.optim.AdamW(params, lr=LR, betas=(MOMENTUM, 0.98), weight_decay=DECAY)


@pytest.mark.parametrize("shape", [(64, 64), (48, 160), (160, 48)])
def test_a_matrix_moves_as_by_torch(shape):
    start, grads = torch.randn(shape, generator=torch.Generator().manual_seed(1)), gradients(shape)
    want, got = (moved(start, kind, grads) for kind in (torch_s, ours))
    assert (got - want).norm() < 0.03 * want.norm()  # the iteration is in half precision
    assert (moved(start, adamw, grads) - want).norm() > 0.3 * want.norm()


def test_a_convolution_moves_as_the_matrix_of_its_rows():
    grads = gradients((32, 40, 3, 1, 1))
    start = torch.zeros(32, 40, 3, 1, 1)
    matrix = moved(start.flatten(1), ours, [g.flatten(1) for g in grads])
    torch.testing.assert_close(moved(start, ours, grads).flatten(1), matrix)


@pytest.mark.parametrize("shape", [(64,), (64, 8, 3, 3), (4, 64, 3, 3), (64, 31)])
def test_what_has_few_channels_moves_by_adamw(shape):
    start, grads = torch.ones(shape), gradients(shape)
    assert torch.equal(moved(start, ours, grads), moved(start, adamw, grads))


def test_shapes_that_move_together_move_as_alone():
    grads = gradients((32, 64), 3)
    weights = [nn.Parameter(torch.zeros(32, 64)) for _ in grads]
    idle = nn.Parameter(torch.zeros(32, 64))
    for weight, grad in zip(weights, grads, strict=True):
        weight.grad = grad
    ours([weights[0], idle, *weights[1:]]).step()
    for weight, grad in zip(weights, grads, strict=True):
        torch.testing.assert_close(weight.detach(), moved(torch.zeros(32, 64), ours, [grad]), rtol=1e-2, atol=1e-4)
    assert not idle.any()


def test_each_group_moves_at_its_own_rate():
    grad = gradients((32, 32), 1)[0]
    fast, slow = (nn.Parameter(torch.zeros(32, 32)) for _ in range(2))
    fast.grad, slow.grad = grad, grad.clone()
    Muon([{"params": [fast], "lr": 0.4}, {"params": [slow], "lr": 0.1}]).step()
    torch.testing.assert_close(fast.detach(), 4 * slow.detach())


def test_orthogonal_keeps_the_directions_and_levels_their_sizes():
    left, _ = torch.linalg.qr(torch.randn(1, 96, 5, generator=torch.Generator().manual_seed(2)))
    right, _ = torch.linalg.qr(torch.randn(1, 40, 5, generator=torch.Generator().manual_seed(3)))
    sizes = torch.tensor([100.0, 50.0, 10.0, 5.0, 1.0])
    within = left.mT @ orthogonal(left @ sizes.diag() @ right.mT) @ right
    assert within[0].diag().min() > 0.65
    assert within[0].diag().max() < 1.25
    assert (within[0] - within[0].diag().diag()).abs().max() < 0.05
    assert not orthogonal(torch.zeros(1, 32, 32)).any()


def test_a_closure_is_asked_before_the_step():
    weight = nn.Parameter(torch.ones(32, 32))
    optimizer = ours([weight])

    def closure():
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 1024.0
    assert not torch.equal(weight.detach(), torch.ones(32, 32))
