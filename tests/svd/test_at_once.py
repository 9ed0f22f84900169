"""A gradient that is taken in the forward pass is the one of the backward pass, and keeps nothing of it."""

import gc
import weakref

import pytest
import torch

from mobilevd.svd.at_once import at_once


@pytest.fixture
def w():
    return torch.randn(5, generator=torch.Generator().manual_seed(0), requires_grad=True)


def test_value_and_gradients_are_those_of_the_whole_graph(w):
    x = torch.arange(5.0, requires_grad=True)
    y = x.sin()
    loss, kept = at_once(lambda: ((w * y).square().sum(), y.sum()), [y, w])
    (3 * loss).backward()
    here = [x.grad.clone(), w.grad.clone()]
    x.grad = w.grad = None
    whole = (w * x.sin()).square().sum()
    (3 * whole).backward()
    assert (float(loss), float(kept)) == (float(whole), float(y.sum()))
    torch.testing.assert_close(here, [x.grad, w.grad])
    assert not kept.requires_grad


def test_what_is_not_named_is_a_constant(w):
    other = torch.ones(5, requires_grad=True)
    at_once(lambda: ((w * other).sum(),), [w])[0].backward()
    assert other.grad is None
    assert torch.equal(w.grad, torch.ones(5))


def test_an_input_that_asks_for_nothing_or_is_not_used_gets_nothing(w):
    fixed, unused = torch.ones(5), torch.ones(5, requires_grad=True)
    at_once(lambda: ((w * fixed).sum(),), [fixed, w, unused])[0].backward()
    assert fixed.grad is None
    assert unused.grad is None
    assert torch.equal(w.grad, fixed)


def test_nothing_of_the_computation_is_kept(w):
    seen = []

    def compute():
        middle = w.exp()
        seen.append(weakref.ref(middle))
        return (middle.square().sum(),)

    loss, *_ = at_once(compute, [w])
    gc.collect()
    assert loss.requires_grad
    assert seen[0]() is None


def test_without_gradients_only_the_value_is_computed(w):
    asked = []
    with torch.no_grad():
        (loss,) = at_once(lambda: (asked.append(torch.is_grad_enabled()) or w.sum(),), [w])
    assert asked == [False]
    assert not loss.requires_grad
    assert float(loss) == float(w.detach().sum())


def test_there_is_no_second_derivative(w):
    (loss,) = at_once(lambda: (w.square().sum(),), [w])
    (slope,) = torch.autograd.grad(loss, w, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        slope.sum().backward()
