import math

import pytest
import torch

from mobilevd.method import adversarial
from mobilevd.method.discriminator import Discriminator
from mobilevd.settings import Adversarial, LogNormal
from mobilevd.svd.edm import Condition, denoise, over_frames

SETTINGS = Adversarial(steps=1, generator={"lr": 1e-3}, discriminator={"lr": 1e-3}, head_channels=16)


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def scene(build, inputs):
    """Generator, discriminator on another network, real clips, condition and draws."""
    sample, _, tokens, ids = inputs(dtype=torch.float32)
    x0, condition = sample[:, :, :4], Condition(sample[:, 0, 4:], tokens, ids)
    generator = build(torch.float32, seed=1)
    d = Discriminator(build(torch.float32, seed=2), width=16, generator=_generator())
    return generator, d, x0, condition, adversarial.draw(x0, SETTINGS, _generator(4))


def _grads(module):
    return [p.grad for p in module.parameters() if p.grad is not None]


def test_the_generators_loss_moves_the_generator_only(scene):
    generator, d, x0, condition, draws = scene
    adversarial.generator_terms(generator, d, x0, condition, draws, SETTINGS).loss.backward()
    assert _grads(generator)
    assert not _grads(d)
    assert not _grads(d._frozen[0])
    assert all(p.requires_grad for p in d.parameters())


def test_the_discriminators_loss_moves_the_heads_only(scene):
    generator, d, x0, condition, draws = scene
    g = adversarial.generator_terms(generator, d, x0, condition, draws, SETTINGS)
    adversarial.discriminator_terms(d, x0, g.fake_features, condition, draws, gamma=1.0).loss.backward()
    assert _grads(d)
    assert not _grads(generator)
    assert not _grads(d._frozen[0])


def test_the_adversarial_part_alone_reaches_the_generator(scene):
    generator, d, x0, condition, draws = scene
    adversarial.generator_terms(generator, d, x0, condition, draws, SETTINGS).adversarial.backward()
    assert sum(float(g.abs().sum()) for g in _grads(generator)) > 0


def test_reused_features_equal_those_of_the_detached_fakes(scene):
    generator, d, x0, condition, draws = scene
    g = adversarial.generator_terms(generator, d, x0, condition, draws, SETTINGS)
    s = draws.sigma[:, None, None, None, None]
    x_t = x0 + s * draws.noise
    sample = torch.cat([x_t / (s**2 + 1).sqrt(), condition.image_latents[:, None].repeat(1, 4, 1, 1, 1)], 2)
    F = generator(sample, draws.sigma.log() / 4, condition.tokens, condition.ids)
    fake = (x_t / (s**2 + 1) - s / (s**2 + 1).sqrt() * F).detach()
    fresh = d.features(fake, draws.fake_noise, draws.d_sigma, condition)
    for reused, new in zip(g.fake_features, fresh, strict=True):
        assert not reused.requires_grad
        torch.testing.assert_close(reused, new, rtol=1e-4, atol=1e-4)


def test_losses_equal_their_formulas(scene):
    generator, d, x0, condition, draws = scene
    g = adversarial.generator_terms(generator, d, x0, condition, draws, SETTINGS)
    fake = d(g.fake_features, draws.d_sigma, condition.tokens)
    real = d(d.features(x0, draws.real_noise, draws.d_sigma, condition), draws.d_sigma, condition.tokens)
    average = lambda rows: sum(float(r.mean()) for r in rows) / len(rows)  # noqa: E731
    assert float(g.loss.detach()) == pytest.approx(average(fake) + 0.1 * float(g.reconstruction.detach()), rel=1e-4)
    terms = adversarial.discriminator_terms(d, x0, g.fake_features, condition, draws, gamma=0.0)
    zero = torch.zeros(())
    expected = average([torch.maximum(zero, 1 + r) for r in real]) + average([torch.maximum(zero, 1 - f) for f in fake])
    assert float(terms.loss.detach()) == pytest.approx(expected, rel=1e-4)
    assert (float(terms.real), float(terms.fake)) == pytest.approx((average(real), average(fake)), rel=1e-4, abs=1e-5)


def test_gradients_by_block_are_those_of_the_whole(scene):
    generator, d, x0, condition, draws = scene
    told = draws.d_sigma, condition.tokens
    terms = adversarial.generator_terms(generator, d, x0, condition, draws, SETTINGS)
    terms.loss.backward()
    by_block = [p.grad.clone() for p in generator.parameters() if p.grad is not None]
    generator.zero_grad()
    fake = denoise(generator, x0 + over_frames(draws.sigma) * draws.noise, draws.sigma, *condition)
    features = d.features(fake, draws.fake_noise, draws.d_sigma, condition)
    (adversarial.mean(d(features, *told)) + 0.1 * adversarial.reconstruction(fake, x0, SETTINGS)).backward()
    assert all(_near(a, b) for a, b in zip(by_block, _grads(generator), strict=True))
    _, moved = _moved(d, x0, terms.fake_features, condition, draws, gamma=0.5)
    d.zero_grad()
    real = [f.requires_grad_() for f in d.features(x0, draws.real_noise, draws.d_sigma, condition)]
    rows = d(real, *told)
    hinges = adversarial.hinge(rows, 1) + adversarial.hinge(d(terms.fake_features, *told), -1)
    (hinges + 0.5 * adversarial.r1(rows, real)).backward()
    assert _near(moved, torch.cat([g.flatten() for g in _grads(d)]))


def _near(a, b) -> bool:
    return float((a - b).norm()) <= 1e-4 * float(b.norm())


def test_the_discriminator_learns_to_answer_negative_for_real():
    real, fake = torch.zeros(1, 4, requires_grad=True), torch.zeros(1, 4, requires_grad=True)
    (adversarial.hinge([real], 1) + adversarial.hinge([fake], -1)).backward()
    assert (real.grad > 0).all()
    assert (fake.grad < 0).all()
    settled = [adversarial.hinge([torch.full((1, 4), -1.0 * sign)], sign) for sign in (1, -1)]
    assert [float(loss) for loss in settled] == [0.0, 0.0]


def test_every_head_counts_the_same_whatever_its_number_of_logits():
    assert float(adversarial.mean([torch.ones(2, 100), torch.full((2, 1), -1.0)])) == 0.0


def test_pseudo_huber_is_quadratic_near_zero_and_linear_far_away():
    x0, unit = torch.zeros(1, 2, 4, 3, 3), torch.ones(1, 2, 4, 3, 3)
    for size in (1e-3, 0.03, 5.0):
        expected = math.sqrt(size**2 + 0.03**2) - 0.03
        assert float(adversarial.pseudo_huber(size * unit, x0, 0.03)) == pytest.approx(expected, rel=1e-3)


def test_an_undivided_norm_pulls_harder_by_the_root_of_the_number_of_elements():
    estimate, pulls = torch.full((2, 14, 4, 3, 5), 2.0), {}
    for over in ("clip", "sum"):
        leaf = estimate.clone().requires_grad_(True)
        adversarial.pseudo_huber(leaf, torch.zeros_like(leaf), 1.0e-4, over).backward()
        pulls[over] = float(leaf.grad.norm())
    assert pulls["sum"] / pulls["clip"] == pytest.approx((14 * 4 * 3 * 5) ** 0.5, rel=1e-3)


def test_a_norm_by_position_lets_what_cannot_be_foreseen_weigh_less_than_a_norm_of_the_clip():
    """One wild position of four: by clip it takes nearly all of the gradient, by position its share is a fourth."""
    x0, error = torch.zeros(1, 2, 4, 2, 1), torch.full((1, 2, 4, 2, 1), 0.3)
    error[:, 1, :, 1] = 6.0
    shares = {}
    for over in ("clip", "position"):
        estimate = error.clone().requires_grad_(True)
        loss = adversarial.pseudo_huber(estimate, x0, 0.03, over)
        loss.backward()
        wild = estimate.grad[:, 1, :, 1].abs().sum()
        shares[over] = float(wild / estimate.grad.abs().sum())
    assert float(loss) == pytest.approx((3 * math.sqrt(0.3**2 + 0.03**2) + 6.0) / 4 - 0.03, rel=1e-3)
    assert shares["clip"] > 0.85
    assert shares["position"] == pytest.approx(0.25, abs=0.01)


def test_r1_is_the_squared_gradient_of_the_logits_at_the_features():
    features = [torch.randn(2, 3, 4, 5, 5, generator=_generator(), requires_grad=True)]
    w = torch.randn(4, generator=_generator(1), requires_grad=True)
    logits = [(features[0].permute(0, 1, 3, 4, 2) @ w).flatten(1)]
    penalty = adversarial.r1(logits, features)
    assert float(penalty.detach()) == pytest.approx(float((w.detach() ** 2).sum()), rel=1e-5)
    penalty.backward()
    torch.testing.assert_close(w.grad, 2 * w.detach())


def _moved(d, x0, features, condition, draws, gamma, by_difference=False):
    """The terms, and the gradient of the loss for all heads in one row."""
    d.zero_grad()
    terms = adversarial.discriminator_terms(d, x0, features, condition, draws, gamma, by_difference)
    terms.loss.backward()
    return terms, torch.cat([p.grad.flatten() for p in d.parameters()])


def test_r1_by_difference_agrees_with_the_second_derivative_in_value_and_gradient(scene):
    _, d, x0, condition, draws = scene
    features = d.features(x0, draws.real_noise, draws.d_sigma, condition)
    found = []
    for form in (False, True):
        (_, without), (terms, given) = (_moved(d, x0, features, condition, draws, gamma, form) for gamma in (0.0, 1.0))
        found.append((float(terms.penalty), given - without))
    (value, gradient), (value_too, gradient_too) = found
    assert value_too == pytest.approx(value, rel=1e-5)
    assert value > 0
    assert ((gradient_too - gradient).norm() / gradient.norm()) < 5e-3


@pytest.mark.parametrize("by_difference", [False, True])
def test_half_precision_ends_at_the_features_losses_and_r1_are_those_of_float32(scene, monkeypatch, by_difference):
    _, d, x0, condition, draws = scene
    seen = [f.bfloat16() for f in d.features(x0, draws.real_noise, draws.d_sigma, condition)]
    monkeypatch.setattr(d, "features", lambda *_: seen)
    found = []
    for half in (False, True):
        d.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            terms = adversarial.discriminator_terms(d, x0, seen, condition, draws, 1.0, by_difference)
        terms.loss.backward()
        found.append([terms.loss.detach(), terms.penalty.detach(), *_grads(d)])
    assert all(torch.equal(half, whole) for whole, half in zip(*found, strict=True))
    assert {t.dtype for t in found[1]} == {torch.float32}


def test_r1_weighs_in_by_gamma(scene):
    generator, d, x0, condition, draws = scene
    features = adversarial.generator_terms(generator, d, x0, condition, draws, SETTINGS).fake_features
    without, given = (adversarial.discriminator_terms(d, x0, features, condition, draws, g) for g in (0.0, 2.0))
    assert float(without.penalty) == 0.0
    assert float((given.loss - without.loss).detach()) == pytest.approx(2 * float(given.penalty.detach()), rel=1e-3)


def test_the_grid_has_1000_levels_from_svds_smallest_to_its_largest_sigma():
    grid = adversarial.grid().double()
    assert (len(grid), float(grid[0]), float(grid[-1])) == pytest.approx((1000, 0.002, 700.0), rel=1e-4)
    i = 400
    expected = (0.002 ** (1 / 7) + i / 999 * (700 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    assert float(grid[i]) == pytest.approx(expected, rel=1e-4)


def test_discriminator_sigmas_follow_the_discretized_lognormal():
    p, grid = adversarial.probabilities(LogNormal(mean=-1.0, std=1.0)), adversarial.grid().double()
    assert float(p.sum()) == pytest.approx(1.0)
    phi = lambda v: 0.5 * (1 + math.erf((math.log(v) + 1) / math.sqrt(2)))  # noqa: E731
    assert float(p[300] / p[500]) == pytest.approx(
        (phi(grid[301]) - phi(grid[300])) / (phi(grid[501]) - phi(grid[500])), rel=1e-3
    )
    x0 = torch.zeros(4000, 1, 1, 1, 1)
    ln = adversarial.draw(x0, SETTINGS, _generator()).d_sigma.log()
    assert float(ln.mean()) == pytest.approx(-1.0, abs=0.07)
    assert float(ln.std()) == pytest.approx(1.0, abs=0.07)


def test_generator_sigmas_are_uniform_over_the_recipes_levels():
    sigma = adversarial.draw(torch.zeros(3000, 1, 1, 1, 1), SETTINGS, _generator()).sigma
    values, counts = sigma.unique(return_counts=True)
    assert values.tolist() == pytest.approx([2.27, 70.5, 700.0])
    assert all(abs(c - 1000) < 120 for c in counts.tolist())


def test_noise_levels_and_noises_are_independent_draws(scene):
    draws = scene[-1]
    assert not torch.equal(draws.real_noise, draws.fake_noise)
    assert not torch.equal(draws.noise, draws.fake_noise)
