"""Every edit alone, all together, and every order between: allowed ones make one network, the others say why not.

An edit sees nothing but the network. So it is enough to edit every set of edits by every further edit once: when all
ways into a set give the same network, all orders of that set do.
"""

import itertools

import pytest
import tiny_svd
import torch
from torch import nn

from mobilevd.errors import SurgeryError
from mobilevd.method import (
    channel_funnel,
    conv_funnel,
    cross_attention,
    spatial_multiscale,
    surgery,
    temporal_multiscale,
    temporal_pruning,
    truncated_svd,
)
from mobilevd.svd.unet import VideoUNet, config_of, temporal_blocks

SMALL = {
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
    "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    "block_out_channels": (32, 32),
    "num_attention_heads": (2, 2),
}
KEEP = ["down_blocks.0.resnets.0", "up_blocks.1.attentions.0", "mid_block.resnets.1"]


def funnel(unet: VideoUNet, mechanism) -> dict:
    mechanism.attach(unet, 0.5, "spatial", "csi")
    return mechanism.merge(unet)


EDITS = {
    "cross_attention": cross_attention.apply,
    "temporal_multiscale": temporal_multiscale.apply,
    "spatial_multiscale": spatial_multiscale.apply,
    "temporal_pruning": lambda unet: temporal_pruning.remove(unet, KEEP),
    "channel_funnel": lambda unet: funnel(unet, channel_funnel),
    "conv_funnel": lambda unet: funnel(unet, conv_funnel),
    "truncated_svd": lambda unet: truncated_svd.apply(unet, 0.5, "temporal"),
}
Made = dict[frozenset[str], tuple[VideoUNet, surgery.Log]]


def build() -> VideoUNet:
    return tiny_svd.unet(**SMALL).double()


def twin(module: nn.Module) -> nn.Module:
    """A tree of modules of its own over the same tensors: what an edit may change, copied cheaply."""
    made = object.__new__(type(module))
    made.__dict__.update(module.__dict__, _parameters=dict(module._parameters), _buffers=dict(module._buffers))
    made.__dict__.update(
        _modules={name: None if child is None else twin(child) for name, child in module._modules.items()}
    )
    return made


def given() -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(1)
    random = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    return random(1, 5, 8, 8, 4), random(1), random(1, 1, 16), torch.tensor([[6.0, 127.0, 0.02]]).double()


def difference(a: nn.Module | None, b: nn.Module | None) -> float:
    """The largest relative one between the weights of two networks; infinite when they differ in more than weights."""
    if told(a) != told(b):
        return float("inf")
    if a is b:
        return 0.0
    pairs = [(p, b._parameters[key]) for key, p in a._parameters.items() if p is not b._parameters[key]]
    own = [((p - q).norm() / q.norm()).item() for p, q in pairs if not torch.equal(p, q)]
    return max([0.0, *own, *(difference(child, b._modules[name]) for name, child in a._modules.items())])


def alike(a: nn.Module | None, b: nn.Module | None) -> bool:
    """Whether two networks have one form: they load each other's weights, and are one function then."""
    return told(a) == told(b) and (a is None or all(alike(child, b._modules[n]) for n, child in a._modules.items()))


def told(module: nn.Module | None) -> tuple:
    """Kind, own settings, shapes of its own tensors and names of its parts."""
    if module is None:
        return ()
    shapes = tuple((key, p if p is None else p.shape) for key, p in module._parameters.items())
    return type(module), module.extra_repr(), shapes, module._modules.keys()


@pytest.fixture(scope="module")
def made() -> Made:
    """Every set of edits → the network that they make, and the log of one order; checked on every way into the set."""
    plain, untouched = build(), build()
    networks: Made = {frozenset(): (plain, [])}
    for count in range(len(EDITS)):
        for done in map(frozenset, itertools.combinations(EDITS, count)):
            for name in EDITS.keys() - done:
                unet, log = twin(networks[done][0]), list(networks[done][1])
                log.append(EDITS[name](unet))
                first = networks.setdefault(done | {name}, (unet, log))
                assert difference(unet, first[0]) <= 1e-12, f"{name} after {sorted(done)}"
    assert difference(plain, untouched) == 0.0
    return networks


def test_every_order_of_every_set_of_edits_makes_the_same_network(made):
    assert len(made) == 2 ** len(EDITS)
    assert [entry["op"] for entry in made[frozenset(EDITS)][1]] == list(EDITS)


def test_every_set_of_edits_is_rebuilt_from_its_log(made):
    with torch.device("meta"):
        rebuilt = {frozenset(): VideoUNet.from_config(config_of(made[frozenset()][0]))}
    for done, (unet, log) in list(made.items())[1:]:
        before = next(fewer for fewer in rebuilt if made[fewer][1] == log[:-1])
        rebuilt[done] = twin(rebuilt[before])
        surgery.replay(rebuilt[done], log[-1])
        assert alike(rebuilt[done], unet), sorted(done)


@torch.no_grad()
@pytest.mark.parametrize("names", [*([name] for name in EDITS), list(EDITS), list(EDITS)[::-1]], ids="+".join)
def test_alone_and_all_together_the_network_rebuilt_from_its_log_gives_the_same_bits(names):
    unet = build()
    plain = unet(*given())
    log = [EDITS[name](unet) for name in names]
    rebuilt = surgery.rebuild(config_of(unet), log).double().eval().requires_grad_(False)
    rebuilt.load_state_dict(unet.state_dict(), strict=True)
    edited = unet(*given())
    assert torch.equal(rebuilt(*given()), edited)
    change = ((edited - plain).norm() / plain.norm()).item()
    assert change <= 1e-12 if names == ["cross_attention"] else change > 1e-6


@torch.no_grad()
def test_opposite_orders_of_all_edits_are_one_function():
    forth, back = build(), build()
    for name in EDITS:
        EDITS[name](forth)
    for name in reversed(EDITS):
        EDITS[name](back)
    there, here = forth(*given()), back(*given())
    assert ((there - here).norm() / here.norm()).item() <= 1e-12


REASONS = {
    "cross_attention": "no cross-attention left",
    "temporal_multiscale": "frame axis is already rescaled",
    "spatial_multiscale": "height and width are already rescaled",
    "channel_funnel": "attn1",
    "conv_funnel": "resnets",
    "truncated_svd": "attn1",
}


@pytest.mark.parametrize("name", REASONS)  # all but temporal pruning: to keep what is kept changes nothing
def test_the_same_edit_twice_is_refused_with_the_reason_alone_and_after_all_others(made, name):
    for done in ({name}, EDITS.keys()):
        with pytest.raises(SurgeryError, match=REASONS[name]):
            EDITS[name](twin(made[frozenset(done)][0]))


IMPOSSIBLE = [
    (["temporal_pruning"], lambda unet: temporal_pruning.remove(unet, ["mid_block.resnets.0"]), "mid_block.resnets.0"),
    (["truncated_svd"], lambda unet: channel_funnel.attach(unet, 0.5, "temporal", "csi"), "attn1"),
    (["truncated_svd"], lambda unet: channel_funnel.attach(unet, 0.5, "all", "csi"), "attn1"),
    (["channel_funnel"], lambda unet: channel_funnel.attach(unet, 0.5, "all", "csi"), "attn1"),
    (["conv_funnel"], lambda unet: conv_funnel.attach(unet, 0.5, "all", "csi"), "resnets"),
    ([], lambda unet: [temporal_pruning.remove(unet, []), channel_funnel.attach(unet, 0.5, "temporal", "csi")], "no "),
]


@pytest.mark.parametrize(("done", "edit", "reason"), IMPOSSIBLE)
def test_an_edit_that_the_ones_before_make_impossible_is_refused_and_changes_nothing(made, done, edit, reason):
    unet = twin(made[frozenset(done)][0])
    with pytest.raises(SurgeryError, match=reason):
        edit(unet)
    if done:
        assert difference(unet, made[frozenset(done)][0]) == 0.0


@torch.no_grad()
def test_an_order_allowed_in_one_direction_only_is_rebuilt_from_its_log(made):
    """Narrowed matrices can be cut in two, matrices cut in two cannot be narrowed."""
    unet, log = twin(made[frozenset({"channel_funnel"})][0]), list(made[frozenset({"channel_funnel"})][1])
    log.append(truncated_svd.apply(unet, 0.5, "spatial"))
    rebuilt = surgery.rebuild(config_of(unet), log).double().eval().requires_grad_(False)
    rebuilt.load_state_dict(unet.state_dict(), strict=True)
    assert torch.equal(rebuilt(*given()), unet(*given()))
    with pytest.raises(SurgeryError, match="attn1"):
        surgery.rebuild(config_of(unet), log[::-1])


def test_the_kept_blocks_are_a_real_choice(made):
    assert set(KEEP) < set(temporal_blocks(made[frozenset()][0]))
