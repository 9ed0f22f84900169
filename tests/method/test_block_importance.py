"""The sampler draws exactly n with probabilities exactly p; budgets by count, cost and score; gates under L1."""

import pytest
import torch

from mobilevd.method.block_importance import (
    Budget,
    Learned,
    Relaxed,
    brewer_sample,
    brewer_weights,
    inclusion_probabilities,
    straight_through,
)

EQUAL = torch.zeros(7)
SKEWED = torch.tensor([0.0, -0.3, 0.5, -1.0, 0.2, -0.7, 0.1])
SATURATED = torch.tensor([4.0, 3.5, 0.0, -0.5, 0.3, -1.0, -3.0])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def learner(budget: Budget, logits: torch.Tensor) -> Learned:
    learned = Learned(budget)
    learned.logits.data.copy_(logits)
    return learned


@pytest.mark.parametrize("logits", [EQUAL, SKEWED, SATURATED], ids=["equal", "skewed", "saturated"])
@pytest.mark.parametrize("n", [0, 1, 3, 6, 7])
def test_inclusion_probabilities_sum_to_n_and_stay_proportional(logits, n):
    p, q = inclusion_probabilities(logits, n), logits.double().exp()
    assert p.sum().item() == pytest.approx(n, abs=1e-9)
    assert ((p >= 0) & (p <= 1)).all()
    inside = (p > 0) & (p < 1)
    if inside.any():
        c = p[inside] / q[inside]
        torch.testing.assert_close(c, c[:1].expand_as(c), rtol=1e-12, atol=0)
        assert (c[0] * q[p == 1] >= 1 - 1e-9).all()


def test_inclusion_probabilities_follow_the_formula_by_hand():
    p = inclusion_probabilities(torch.tensor([8.0, 2.0, 1.0, 1.0]).log(), 2)
    torch.testing.assert_close(p, torch.tensor([1.0, 0.5, 0.25, 0.25], dtype=torch.float64))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_brewer_weights_give_first_order_probabilities_exactly(n):
    """Walk every order of draws and add up the chance that each unit is in."""
    p = inclusion_probabilities(torch.tensor([0.0, -0.1, 0.15, -0.3, 0.06]), n)
    assert (p < 1).all()
    included = torch.zeros(5, dtype=torch.float64)

    def walk(drawn: torch.Tensor, chance: float, left: int) -> None:
        if left == 0:
            included[drawn] += chance
            return
        weights = brewer_weights(p, drawn)
        for k in (~drawn).nonzero().flatten():
            further = drawn.clone()
            further[k] = True
            walk(further, chance * (weights[k] / weights.sum()).item(), left - 1)

    walk(torch.zeros(5, dtype=torch.bool), 1.0, n)
    torch.testing.assert_close(included, p, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("logits", [EQUAL, SKEWED, SATURATED], ids=["equal", "skewed", "saturated"])
def test_samples_hold_exactly_n_and_meet_their_probabilities(logits):
    n, draws, source = 3, 2000, generator()
    p = inclusion_probabilities(logits, n)
    samples = torch.stack([brewer_sample(p, source) for _ in range(draws)]).double()
    assert (samples.sum(dim=1) == n).all()
    standard_error = (p * (1 - p) / draws).sqrt()
    assert ((samples.mean(dim=0) - p).abs() <= 5 * standard_error + 1e-12).all()


def test_samples_repeat_under_one_generator_and_differ_under_another():
    p = inclusion_probabilities(SKEWED, 3)
    draw = lambda seed: torch.stack([brewer_sample(p, g) for g in [generator(seed)] for _ in range(20)])  # noqa: E731
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


@pytest.mark.parametrize("logits", [EQUAL, SKEWED, SATURATED], ids=["equal", "skewed", "saturated"])
def test_straight_through_passes_dz_on_as_dp_to_every_logit_capped_or_not(logits):
    learned, dz = learner(Budget((1.0,) * 7, keep=3), logits), torch.tensor([3.0, -1.0, 2.0, 0.5, -2.0, 1.5, 4.0])
    z, p = learned.draw(generator(3)), learned.probabilities()
    assert torch.equal(z.detach(), brewer_sample(p, generator(3)).double())
    z.backward(dz.double())
    by_hand = p * (dz - (p * dz).sum() / 3)  # dp_j/dlogit_i = p_j (δ_ij − p_i/n)
    torch.testing.assert_close(learned.logits.grad, by_hand.float(), rtol=1e-5, atol=1e-7)
    assert (learned.logits.grad.abs() > 0).all()
    assert ((p == 1).sum() == 2) == (logits is SATURATED)


@pytest.mark.parametrize("logits", [EQUAL, SKEWED])
def test_straight_through_is_the_derivative_of_the_probabilities_where_none_is_capped(logits):
    step, p = 1e-6, inclusion_probabilities(logits.double(), 3)
    columns = [inclusion_probabilities(logits.double() + step * e, 3) for e in torch.eye(7, dtype=torch.float64)]
    measured = (torch.stack(columns, dim=1) - p[:, None]) / step
    claimed = torch.autograd.functional.jacobian(lambda x: straight_through(p, x), logits.double())
    torch.testing.assert_close(claimed, measured, rtol=1e-4, atol=1e-5)


def test_a_block_that_is_always_drawn_learns_to_go_when_it_does_harm():
    learned = learner(Budget((1.0,) * 7, keep=3), SATURATED)
    harm, source = torch.tensor([1.0, 0, 0, 0, 0, 0, 0]).double(), generator()
    optimizer = torch.optim.Adam(learned.parameters(), lr=0.1)
    assert learned.probabilities()[0] == 1
    for _ in range(80):
        optimizer.zero_grad()
        (learned.draw(source) @ harm).backward()
        optimizer.step()
    assert learned.probabilities()[0] < 0.2
    assert learned.settled()[0] == 0


@pytest.mark.parametrize("gap", [50.0, 800.0, 1.0e5])
def test_importances_as_far_apart_as_can_be_still_draw_the_best(gap):
    logits = -gap * torch.arange(5.0)
    p = inclusion_probabilities(logits, 2)
    assert (p[:2] == 1).all()
    assert p.sum().item() == pytest.approx(2)
    assert brewer_sample(p, generator()).tolist() == [True, True, False, False, False]


def test_draws_repeat_under_one_generator_and_settle_without_one():
    learned = learner(Budget((1.0,) * 7, keep=3), SKEWED)
    draw = lambda seed: torch.stack([learned.draw(g) for g in [generator(seed)] for _ in range(20)])  # noqa: E731
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert learned.settled().tolist() == [0, 0, 1, 0, 1, 0, 1]


def test_of_equally_important_blocks_the_earlier_stay():
    assert Budget((1.0,) * 7, keep=2).choose(EQUAL).tolist() == [True, True] + [False] * 5


def test_a_tflops_budget_takes_every_block_that_still_fits_best_first():
    budget, scores = Budget((5.0, 3.0, 2.0, 1.0), tflops=6.0), torch.tensor([0.4, 0.5, 0.3, 0.2])
    assert budget.choose(scores).tolist() == [False, True, True, True]
    assert Budget((5.0, 3.0, 2.0, 1.0), tflops=5.0).choose(scores.flip(0)).tolist() == [False, False, True, True]
    assert not Budget((5.0, 3.0), tflops=2.0).choose(scores[:2]).any()


def test_a_cost_weighted_score_prefers_the_cheaper_of_two_equally_important_blocks():
    costs, scores = (4.0, 1.0, 2.0), torch.tensor([0.9, 0.3, 0.5])
    assert Budget(costs, keep=1).choose(scores).tolist() == [True, False, False]
    assert Budget(costs, keep=1, per_tflop=True).choose(scores).tolist() == [False, True, False]
    assert Budget(costs, keep=2, per_tflop=True).ranking(scores) == [1, 2, 0]


@pytest.mark.parametrize("per_tflop", [False, True])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_probabilities_follow_the_ranking_that_decides(per_tflop, n):
    budget = Budget((4.0, 1.0, 2.0, 8.0, 0.5), keep=n, per_tflop=per_tflop)
    learned = learner(budget, torch.tensor([0.0, -0.2, 0.4, 1.0, -2.0]))
    p = learned.probabilities()
    assert p.sum().item() == pytest.approx(n)
    q = learned.scores() / torch.tensor(budget.costs) if per_tflop else learned.scores()
    inside = (p > 0) & (p < 1)
    torch.testing.assert_close(
        (p / q)[inside] * q[inside].sum(), (n - (p == 1).sum()).double().expand(int(inside.sum()))
    )
    kept = budget.choose(learned.scores())
    assert p[kept].min() >= p[~kept].max()


def test_draws_under_a_tflops_budget_are_expected_to_meet_it_and_one_more_block_would_not():
    costs = torch.tensor([5.0, 3.0, 2.0, 1.0, 1.0, 0.5], dtype=torch.float64)
    budget, logits = Budget(tuple(costs.tolist()), tflops=7.0), torch.tensor([0.5, 0.1, -0.2, 0.4, 0.0, -0.5])
    p = budget.probabilities(logits)
    n = round(p.sum().item())
    assert 1 <= n < 6
    assert (p * costs).sum() <= 7.0 < (inclusion_probabilities(logits, n + 1) * costs).sum()


def test_l1_shrinks_the_gates_of_blocks_that_do_not_matter_and_keeps_the_others():
    needed, start = torch.tensor([1.0, 0.0, 0.6, 0.0]), torch.ones(4)
    relaxed = Relaxed(Budget((1.0,) * 4, keep=2), l1_weight=0.05)
    assert torch.equal(relaxed.draw(generator()).detach(), start)
    optimizer = torch.optim.SGD(relaxed.parameters(), lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        error = needed * (relaxed.draw(generator()) - 1.2 * needed)
        (error.square().sum() + relaxed.penalty()).backward()
        optimizer.step()
    g = relaxed.scores()
    assert max(g[1], g[3]) <= 0.025
    assert g[0].item() == pytest.approx(1.0, abs=0.02)
    assert g[2].item() == pytest.approx(0.72 - 0.05 / 2 / 0.36, abs=0.02)  # where 2·0.36·(g − 0.72) + λ = 0
    torch.testing.assert_close(relaxed.settled(), torch.where(needed > 0, g, 0.0).double())


def test_the_penalty_is_lambda_times_the_sum_of_the_gates():
    relaxed = Relaxed(Budget((1.0,) * 4, keep=2), l1_weight=0.05)
    relaxed.values.data = torch.tensor([0.5, -0.2, 1.2, 0.0])
    assert relaxed.penalty().item() == pytest.approx(0.05 * 1.9)
    assert relaxed.draw(generator()).tolist() == [0.5, 0.0, 1.0, 0.0]


def test_a_kept_gate_never_settles_at_zero():
    relaxed = Relaxed(Budget((1.0,) * 3, keep=2), l1_weight=0.05)
    relaxed.values.data = torch.tensor([-0.1, 0.4, -0.3])
    assert [value > 0 for value in relaxed.settled().tolist()] == [True, True, False]
