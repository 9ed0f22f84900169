"""Moments are those of the activations, the start is optimal for them, and the ranks keep to one budget."""

import copy

import pytest
import torch

from mobilevd.errors import SurgeryError
from mobilevd.method import channel_funnel, data_aware, surgery
from mobilevd.svd.affine_pairs import self_attentions
from mobilevd.svd.unet import Attention, config_of


class Two(torch.nn.Module):
    """Two self-attentions in a row, residual; the second one adds little to the output."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = (Attention(24, heads=3, dim_head=8).double() for _ in range(2))

    def forward(self, x):
        x = x + self.first(x)
        return x + 0.01 * self.second(x)


@pytest.fixture
def two() -> Two:
    return Two()


@pytest.fixture
def x() -> torch.Tensor:
    """Four sequences of ten positions whose 24 channels are strongly correlated."""
    random = torch.Generator().manual_seed(1)
    low = torch.randn(4, 10, 5, generator=random, dtype=torch.float64)
    mix = torch.randn(5, 24, generator=random, dtype=torch.float64)
    return low @ mix + 0.05 * torch.randn(4, 10, 24, generator=random, dtype=torch.float64)


def watched(network, x, times: int = 1) -> dict[str, data_aware.Watched]:
    return data_aware.watch(
        self_attentions(network, "all"), [lambda: network(x)] * times, torch.Generator().manual_seed(2)
    )


def test_moments_are_those_of_centred_keys_mixed_values_and_their_gradients(two, x, relative):
    seen = watched(two, x)["second"]
    attention = two.second
    with torch.no_grad():
        inner = x + two.first(x)
        q, k, v = (
            to(inner).unflatten(2, (3, 8)).transpose(1, 2) for to in (attention.to_q, attention.to_k, attention.to_v)
        )
        u = torch.softmax(q @ k.mT / 8**0.5, dim=-1) @ v
        centred = k - k.mean(dim=2, keepdim=True)
        probe = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).double()
        g = (0.01 * probe @ attention.to_out[0].weight).unflatten(2, (3, 8)).transpose(1, 2)
    for found, rows in ((seen.qk.value, centred), (seen.vo.value, u), (seen.vo.gradient, g)):
        assert relative(found, torch.einsum("nhsc,nhsd->hcd", rows, rows)) <= 1e-10
    assert seen.operations == 4 * (10 * 4 * 24 * 3 + 2 * 10 * 10 * 3)


def test_nothing_of_the_network_changes_and_no_parameter_gets_a_gradient(two, x):
    before = copy.deepcopy(two.state_dict())
    watched(two, x)
    assert all(torch.equal(before[name], tensor) for name, tensor in two.state_dict().items())
    assert all(p.grad is None for p in two.parameters())
    assert not two.first.to_k._forward_hooks
    two.requires_grad_(False)
    assert watched(two, x)["first"].qk.gradient.any()


def test_an_attention_that_an_evaluation_goes_around_or_passes_twice_is_named(two, x):
    attentions, random = self_attentions(two, "all"), torch.Generator()
    for evaluate in (lambda: two.first(x), lambda: two(two(two.first(x)))):
        with pytest.raises(SurgeryError, match=r"not evaluated\n.*(second|first)"):
            data_aware.watch(attentions, [evaluate], random)
    assert not two.first.to_k._forward_hooks


@torch.no_grad()
def test_full_width_is_the_identity_of_the_function(two, x, relative):
    plain, pairs = two(x), data_aware.pairs(watched(two, x))
    channel_funnel.attach(two, 1.0, "all", "csi", None, pairs)
    assert relative(two(x), plain) <= 1e-8


@torch.no_grad()
def test_on_what_it_saw_it_keeps_more_of_the_function_than_plain_csi(two, x, relative):
    errors, plain, seen = {}, two(x), watched(two, x, times=3)
    for name, plan in {
        "csi": (),
        "pairs": (data_aware.pairs(seen),),
        "ranks": (data_aware.pairs(seen), data_aware.ranks(seen, 0.5)),
    }.items():
        network = copy.deepcopy(two)
        channel_funnel.attach(network, 0.5, "all", "csi", None, *plan)
        errors[name] = relative(network(x), plain)
    assert errors["ranks"] < errors["pairs"] < 0.5 * errors["csi"]


def test_ranks_stay_within_one_budget_and_go_where_the_error_is(two, x):
    seen = watched(two, x)
    for r in (0.25, 0.5, 0.75, 1.0):
        ranks = data_aware.ranks(seen, r)
        spent = sum(seen[name].operations * sum(pair) for name, pair in ranks.items())
        uniform = sum(w.operations * 2 * round(8 * r) for w in seen.values())
        assert uniform - max(w.operations for w in seen.values()) < spent <= uniform
        assert all(1 <= rank <= 8 for pair in ranks.values() for rank in pair)
    assert sum(data_aware.ranks(seen, 0.5)["first"]) > sum(data_aware.ranks(seen, 0.5)["second"])


@torch.no_grad()
def test_ranks_travel_in_the_log_and_rebuild_the_network(build):
    unet = build(torch.float32)
    names = list(self_attentions(unet, "temporal"))
    ranks = {name: (3 + i % 5, 2 + i % 7) for i, name in enumerate(names)}
    channel_funnel.attach(unet, 0.5, "temporal", "csi", None, None, ranks)
    entry = channel_funnel.merge(unet)
    assert entry == {"op": "channel_funnel", "ranks": {name: list(pair) for name, pair in ranks.items()}}
    with torch.device("meta"):
        rebuilt = surgery.rebuild(config_of(unet), [entry])
    shapes = {key: tuple(t.shape) for key, t in unet.state_dict().items()}
    assert {key: tuple(t.shape) for key, t in rebuilt.state_dict().items()} == shapes
