"""Data-aware CSI: weigh the coupled decomposition by what passes through a head, and share one budget among all.

**Source** ours, in the manner of activation-aware SVD compression and K-FAC. **Changes** nothing; what it measures is
what ``channel_funnel.attach`` takes as ``pairs`` and ``ranks``. **Keeps** at r = 1 the identity, at any r the budget
(``tests/method/test_data_aware.py``). **Axes** N S C activations, [h c c] moments of h heads of c channels.
"""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mobilevd.errors import SurgeryError

FLOOR = 1.0e-6  # of the mean variance: added to every direction, so that unseen ones stay apart from zero
Moment = Float[Tensor, "h c c"]


@dataclass
class Site:
    """One product of one attention: second moments of what a funnel passes on, and of the output's gradient there."""

    value: Moment
    gradient: Moment


@dataclass
class Watched:
    """Both products of one attention, and the operations that one channel per head costs in either of them."""

    qk: Site
    vo: Site
    operations: float = 0.0


def watch(
    attentions: dict[str, nn.Module],
    evaluations: Iterable[Callable[[], Tensor]],
    generator: torch.Generator,
) -> dict[str, Watched]:
    """Run the evaluations of the network that holds ``attentions`` and gather moments there, float64.

    (1) A funnel turns keys k into A k and the mixed values u into A u, A = F2 F1, which moves the network's output by
    δ = Σ gᵀ (A − 1) k to first order; E‖δ‖² is taken over random probes g of the output (Hutchinson) and positions that
    count as independent: E‖δ‖² ≈ ‖K_g^½ (A − 1) K_k^½‖². Keys are centred: softmax ignores what all of them share.
    Errors: SurgeryError naming an attention that an evaluation does not pass through once.
    """
    watched = {name: _blank(attention) for name, attention in attentions.items()}
    for evaluate in evaluations:
        with _Taps(attentions) as taps, torch.enable_grad():
            output = evaluate()
        if astray := [name for name, seen in taps.seen.items() if len(seen) != 2]:
            what, allowed = "This attention was not evaluated", "once in every evaluation of the network"
            raise SurgeryError(what, got=", ".join(astray), allowed=allowed, where="data_aware.watch")
        probe = torch.randn(output.shape, generator=generator).to(output)
        keys, mixed = (list(tensors) for tensors in zip(*taps.seen.values(), strict=True))
        gradients = torch.autograd.grad(output, [*keys, *mixed], probe)
        for index, (name, attention) in enumerate(attentions.items()):
            _add(watched[name], attention.heads, keys[index], mixed[index], gradients[index :: len(keys)])
    return watched


def pairs(watched: dict[str, Watched]) -> dict[str, tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """(2) W1 = K_x^½, W2 = K_g^½ᵀ per head, for q–k and v–o of every attention: CSI's product is then K_g^½ᵀ K_x^½."""
    return {name: (_roots(seen.qk), _roots(seen.vo)) for name, seen in watched.items()}


def ranks(watched: dict[str, Watched], fun_factor: float) -> dict[str, tuple[int, int]]:
    """(q–k, v–o) channels per head of every attention, within the operations that round(r·c) everywhere would cost.

    (3) One channel more of a product saves Σ_h σ² of error for its operations; the singular values σ fall, so that
    taking the best saving per operation first is optimal up to the last channel. Everyone keeps one channel at least.
    Errors: SurgeryError for an impossible fun-factor.
    """
    if not 0.0 < fun_factor <= 1.0:
        raise SurgeryError("Impossible fun-factor", got=fun_factor, allowed="0 < r ≤ 1", where="funnel.fun_factor")
    energies = {(name, i): _energy(site) for name, seen in watched.items() for i, site in enumerate((seen.qk, seen.vo))}
    price = {(name, i): watched[name].operations for name, i in energies}
    chosen = dict.fromkeys(energies, 1)
    left = sum(price[at] * (max(1, round(fun_factor * len(energy))) - 1) for at, energy in energies.items())
    offers = [(-float(energy[1]) / price[at], at) for at, energy in energies.items() if len(energy) > 1]
    heapq.heapify(offers)
    while offers:
        _, at = heapq.heappop(offers)
        if price[at] > left * (1 + 1e-9):
            continue
        left, chosen[at] = left - price[at], chosen[at] + 1
        if chosen[at] < len(energies[at]):
            heapq.heappush(offers, (-float(energies[at][chosen[at]]) / price[at], at))
    return {name: (chosen[name, 0], chosen[name, 1]) for name in watched}


class _Taps:
    """Hooks that keep keys and mixed values of every attention during one evaluation, as points to differentiate at."""

    def __init__(self, attentions: dict[str, nn.Module]):
        self.seen: dict[str, list[Tensor]] = {name: [] for name in attentions}
        self._attentions, self._hooks = attentions, []

    def __enter__(self) -> "_Taps":
        for name, attention in self._attentions.items():
            keep = lambda x, name=name: self.seen[name].append(x if x.requires_grad else x.requires_grad_())  # noqa: E731
            self._hooks += [
                attention.to_k.register_forward_hook(lambda _, __, k, keep=keep: keep(k)),
                attention.to_out[0].register_forward_pre_hook(lambda _, given, keep=keep: keep(given[0])),
            ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


def _blank(attention: nn.Module) -> Watched:
    h, c, like = attention.heads, attention.to_q.out_features // attention.heads, attention.to_q.weight
    sites = (Site(*(like.new_zeros(h, c, c, dtype=torch.float64) for _ in range(2))) for _ in range(2))
    return Watched(*sites)


@torch.no_grad()
def _add(seen: Watched, heads: int, k: Tensor, u: Tensor, gradients: tuple[Tensor, Tensor]) -> None:
    rows, positions, width = k.shape
    seen.operations += rows * positions * (4 * width * heads + 2 * positions * heads)
    for site, x, g in ((seen.qk, k - k.mean(dim=1, keepdim=True), gradients[0]), (seen.vo, u, gradients[1])):
        site.value += _moment(x, heads)
        site.gradient += _moment(g, heads)


def _moment(x: Tensor, heads: int) -> Moment:
    x = x.flatten(0, 1).unflatten(1, (heads, -1)).transpose(0, 1).double()  # h N·S c
    return x.mT @ x


def _roots(site: Site) -> tuple[Tensor, Tensor]:
    return _root(site.value), _root(site.gradient).mT


def _root(K: Moment) -> Moment:
    """V Λ^½ of K + floor = V Λ Vᵀ."""
    mean = K.diagonal(dim1=1, dim2=2).mean(dim=1)
    Λ, V = torch.linalg.eigh(K + FLOOR * mean[:, None, None] * torch.eye(K.shape[1]).to(K))
    return V * Λ.clamp(min=0.0).sqrt()[:, None, :]


def _energy(site: Site) -> Float[Tensor, "c"]:
    """Σ_h σ_i² of K_g^½ᵀ K_x^½, falling in i."""
    W1, W2 = _roots(site)
    return torch.linalg.svdvals(W2 @ W1).square().sum(dim=0)
