"""Which temporal blocks stay: importances learned through an exact sampler, or gates shrunk by L1; by count or by cost.

**Source** MobileVD (arXiv 2412.07583) Table 1 and its pruning ablation; Brewer (1975), Tillé, *Sampling Algorithms*.
**Keeps** exactly n drawn, block k with chance p_k (``tests/method/test_block_importance.py``). **Axes** [K] blocks.
Deviates: the paper's equations could not be read; q, p, the sampler and the relaxation are a consistent set of ours.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

CERTAIN = 1.0 - 1.0e-12  # an inclusion probability that counts as 1
SHUT = 1.0e-6  # a kept gate is never quite at 0, so that it can be folded into its block
SLACK = 1.0e-9  # TFLOPs: what adding up costs may lose to rounding


@dataclass(frozen=True)
class Budget:
    """How many of K blocks may stay: ``keep`` of them, or as many as cost at most ``tflops`` together (one is given).

    ``costs``: TFLOPs of each block. ``per_tflop``: blocks are ranked by score per TFLOP instead of by score.
    """

    costs: tuple[float, ...]
    keep: int | None = None
    tflops: float | None = None
    per_tflop: bool = False

    def ranking(self, scores: Float[Tensor, "K"]) -> list[int]:
        """Indices of the blocks, best first; of equals the earlier one."""
        weighted = scores.double().cpu() / torch.tensor(self.costs, dtype=torch.float64) if self.per_tflop else scores
        return torch.sort(weighted, descending=True, stable=True).indices.tolist()

    def choose(self, scores: Float[Tensor, "K"]) -> Bool[Tensor, "K"]:
        """Down the ranking, every block that still fits."""
        blocks, tflops = (len(self.costs) if self.keep is None else self.keep), self._room()
        kept = torch.zeros(len(self.costs), dtype=torch.bool)
        for index in self.ranking(scores):
            if blocks and self.costs[index] <= tflops:
                kept[index], blocks, tflops = True, blocks - 1, tflops - self.costs[index]
        return kept

    def probabilities(self, logits: Float[Tensor, "K"]) -> Float[Tensor, "K"]:
        """Inclusion probabilities of a draw, float64: Σ p = keep, or the largest Σ p with Σ p·cost ≤ tflops.

        With ``per_tflop``, p is proportional to q_i / cost_i.
        """
        costs = torch.tensor(self.costs, dtype=torch.float64, device=logits.device)
        logits = logits.double() - costs.log() if self.per_tflop else logits
        if self.keep is not None:
            return inclusion_probabilities(logits, self.keep)
        room, p = self._room(), inclusion_probabilities(logits, 1)
        for n in range(2, len(self.costs) + 1):
            more = inclusion_probabilities(logits, n)
            if float((more * costs).sum()) > room:
                break
            p = more
        return p

    def _room(self) -> float:
        return float("inf") if self.tflops is None else self.tflops + SLACK


class Learned(nn.Module):
    """Importances q_i = exp(logit_i), equal at the start, and the z ∈ {0, 1} that they draw."""

    def __init__(self, budget: Budget):
        super().__init__()
        self.budget = budget
        self.logits = nn.Parameter(torch.zeros(len(budget.costs)))

    def scores(self) -> Float[Tensor, "K"]:
        """q."""
        return self.logits.detach().exp()

    def probabilities(self) -> Float[Tensor, "K"]:
        """Inclusion probabilities p (float64) of the next draw."""
        return self.budget.probabilities(self.logits)

    def draw(self, generator: torch.Generator) -> Float[Tensor, "K"]:
        """The z of one forward. Straight-through: z forward, dL/dp := dL/dz backward, into every logit.

        Draw anew before every backward: the graph from z to the logits is used up by one.
        """
        p = self.probabilities()
        reached = straight_through(p, self.logits)
        return brewer_sample(p.cpu(), generator).to(p) + (reached - reached.detach())

    def settled(self) -> Float[Tensor, "K"]:
        """The z to be left with: 1 for the blocks that stay."""
        return self.budget.choose(self.scores()).double()


class Relaxed(nn.Module):
    """Gates relaxed to real values g ∈ [0, 1], all 1 at the start, that an L1 penalty draws towards 0."""

    def __init__(self, budget: Budget, l1_weight: float):
        super().__init__()
        self.budget, self.l1_weight = budget, l1_weight
        self.values = nn.Parameter(torch.ones(len(budget.costs)))

    def scores(self) -> Float[Tensor, "K"]:
        """g."""
        return self.values.detach().clamp(0.0, 1.0)

    def draw(self, _: torch.Generator) -> Float[Tensor, "K"]:
        """The z of one forward: every gate as far open as it is."""
        return self.values.clamp(0.0, 1.0)

    def penalty(self) -> Float[Tensor, ""]:
        """(4) λ Σ |g|, to be added to the loss."""
        return self.l1_weight * self.values.abs().sum()

    def settled(self) -> Float[Tensor, "K"]:
        """The z to be left with: g for the blocks that stay, 0 for the others."""
        kept = self.budget.choose(self.scores()).to(self.values.device)
        return torch.where(kept, self.scores().double().clamp_min(SHUT), 0.0)


def inclusion_probabilities(logits: Float[Tensor, "K"], n: int) -> Float[Tensor, "K"]:
    """(1) p_i = min(1, c·q_i) with q_i = exp(logit_i) and c such that Σ p_i = n; float64.

    Fix every p_i ≥ 1 at 1, rescale the rest to what is left, repeat until none exceeds 1.
    """
    logits = logits.detach().double()
    certain = torch.full_like(logits, n == len(logits), dtype=torch.bool)
    while not certain.all():
        rest = logits.masked_fill(certain, -torch.inf).softmax(dim=0)
        p = torch.where(certain, 1.0, (n - int(certain.sum())) * rest)
        over = (p >= CERTAIN) & ~certain
        if not over.any():
            return p
        certain = certain | over
    return torch.ones_like(logits)


def straight_through(p: Float[Tensor, "K"], logits: Float[Tensor, "K"]) -> Float[Tensor, "K"]:
    """(2) What moves with the logits as p does: dp_i/dlogit_j = p_i (δ_ij − p_j / Σ p).

    Deviates: p's own derivative where no p_i is capped at 1. A capped one would not hear its gradient and could never
    learn to go; so the cap counts forward only.
    """
    logits = logits.to(p)
    return p * (logits - (p @ logits) / p.sum().clamp_min(1.0))


def brewer_weights(p: Float[Tensor, "K"], drawn: Bool[Tensor, "K"]) -> Float[Tensor, "K"]:
    """(3) Brewer's chances of draw r, unnormalised: p_k (n − a − p_k) / (n − a − p_k (n − r + 1)), 0 once drawn.

    n = Σ p; a = Σ p over the r − 1 units drawn so far; 0 < p_k < 1 for all k.
    """
    left, to_draw = p[~drawn].sum(), round(p.sum().item()) - int(drawn.sum())
    return torch.where(drawn, 0.0, p * (left - p) / (left - p * to_draw))


def brewer_sample(p: Float[Tensor, "K"], generator: torch.Generator) -> Bool[Tensor, "K"]:
    """Draw exactly Σ p of K units without replacement, so that unit k is drawn with probability exactly p_k."""
    z = p >= CERTAIN
    open_units = ((p > 0.0) & ~z).nonzero().flatten()
    drawn = torch.zeros_like(open_units, dtype=torch.bool)
    for _ in range(round(p[open_units].sum().item())):
        drawn[torch.multinomial(brewer_weights(p[open_units], drawn), 1, generator=generator)] = True
    z[open_units[drawn]] = True
    return z
