import dataclasses

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mobilevd.method import temporal_pruning
from mobilevd.method.block_importance import Budget, Learned
from mobilevd.settings import Adversarial, Optim, Training
from mobilevd.training import duel
from mobilevd.training.checkpoints import Checkpoints
from mobilevd.training.engine import Engine
from mobilevd.training.health import SIGNATURE
from mobilevd.training.learner import NonFiniteError

SETTINGS = Adversarial(
    steps=3,
    generator={"lr": 1e-3},
    discriminator={"lr": 1e-3},
    head_channels=16,
    validate_every=1,
    r1_every=2,
)


@pytest.fixture
def make(video_unet, write_clips, tmp_path):
    def build(folder: str | None = None, **changes) -> duel.Duel:
        clips = (write_clips("train"), write_clips("validation", 2))
        checkpoints = Checkpoints(tmp_path / folder, "test") if folder else None
        ids = torch.tensor([[6.0, 127.0, 0.02]])
        fight = duel.Duel(video_unet(0), video_unet(1), clips, (ids, ids), SETTINGS, 0, "t", checkpoints=checkpoints)
        return dataclasses.replace(fight, **changes)

    return build


def _weights(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def test_generator_and_heads_move_and_the_frozen_encoder_does_not(make):
    fight = make()
    turns = duel.Turns(fight, Engine(Training()))
    before = [_weights(m) for m in (fight.generator, turns._heads, fight.encoder)]
    turns.take(0)
    after = [_weights(m) for m in (fight.generator, turns._heads, fight.encoder)]
    moved = [sum(not torch.equal(b[n], a[n]) for n in b) / len(b) for b, a in zip(before, after, strict=True)]
    assert moved[0] > 0.9
    assert moved[1] > 0.9
    assert moved[2] == 0.0
    assert all(p.grad is None for p in fight.encoder.parameters())


@pytest.mark.parametrize(
    ("key", "word", "moves", "stays"),
    [
        ("look", "before_downsampler", "loss_hinge", "loss_rec"),
        ("huber_over", "position", "loss_rec", "loss_hinge"),
        ("huber_over", "position", "val_rec", None),
    ],
)
def test_what_the_recipe_says_of_look_and_norm_is_what_trains(make, key, word, moves, stays):
    told = []
    for settings in (SETTINGS, SETTINGS.model_copy(update={key: word})):
        turns = duel.Turns(make(settings=settings), Engine(Training()))
        told.append(turns.validate(0) | turns.take(0))
    assert told[0][moves] != pytest.approx(told[1][moves], rel=1e-3)
    assert stays is None or told[0][stays] == pytest.approx(told[1][stays])


def test_in_the_heads_start_the_generator_stands_still_and_its_schedule_waits(make):
    late = SETTINGS.model_copy(update={"head_start": 2, "generator": Optim(lr=1e-3, warmup_steps=2)})
    fight = make(settings=late)
    turns = duel.Turns(fight, Engine(Training()))
    start, heads = _weights(fight.generator), _weights(turns._heads)
    told = [turns.take(0), turns.take(1)]
    assert all(torch.equal(start[n], p) for n, p in fight.generator.named_parameters())
    assert turns.generator.ema.updates == 0
    assert sum(not torch.equal(heads[n], p) for n, p in turns._heads.named_parameters()) > 0.9 * len(heads)
    assert not any("lr_g" in row or "grad_norm_g" in row for row in told)
    assert turns.take(2)["lr_g"] == pytest.approx(0.5e-3)
    assert not all(torch.equal(start[n], p) for n, p in fight.generator.named_parameters())


def test_a_generator_that_waits_for_the_heads_is_no_collapse(make):
    late, show = SETTINGS.model_copy(update={"head_start": 2}), lambda step, outputs: {SIGNATURE: float(outputs.mean())}
    trained = duel.train(make(settings=late, show=show))
    assert [step for step, _ in trained.curves[SIGNATURE]] == [0, 3]
    assert trained.alarms == []


def test_heads_go_on_as_another_duel_left_them(make, tmp_path):
    left = tmp_path / "given" / "heads.safetensors"
    told = duel.train(make(left=left)).curves
    trained = load_file(left)
    assert all(name.startswith("heads.") for name in trained)
    turns = duel.Turns(make(heads=left), Engine(Training()))
    heads = turns._heads.state_dict()
    assert heads.keys() == trained.keys()
    assert all(torch.equal(heads[name], value) for name, value in trained.items())
    assert turns.take(0)["loss_hinge"] < told["loss_hinge"][0][1]


def test_a_duel_that_goes_on_with_heads_may_be_killed(make, tmp_path, killed_at):
    left = tmp_path / "heads.safetensors"
    duel.train(make(left=left))
    whole = duel.train(make("whole", heads=left)).curves
    with pytest.raises(killed_at(2)):
        duel.train(make("killed", heads=left))
    assert duel.train(make("killed", heads=left)).curves == whole


def test_a_duel_killed_in_the_heads_start_continues_with_identical_losses(make, killed_at):
    late = SETTINGS.model_copy(update={"head_start": 2})
    whole = duel.train(make("whole", settings=late)).curves
    with pytest.raises(killed_at(1)):
        duel.train(make("killed", settings=late))
    assert duel.train(make("killed", settings=late)).curves == whole


@pytest.mark.parametrize("half", ["generator", "discriminator"])
def test_when_one_halfs_gradient_is_not_finite_neither_moves(make, half):
    turns = duel.Turns(make(), Engine(Training()))
    halves = {"generator": turns.generator, "discriminator": turns.discriminator}
    before = {name: _weights(side.module) for name, side in halves.items()}
    halves[half].params[0].register_hook(lambda grad: grad * float("nan"))
    with pytest.raises(NonFiniteError, match=f"of the {half} is not finite"):
        turns.take(0)
    for name, side in halves.items():
        assert all(torch.equal(p, before[name][n]) for n, p in side.module.named_parameters())
    assert turns.generator.ema.updates == 0


def test_no_part_of_the_frozen_encoder_is_in_a_checkpoint(make):
    turns = duel.Turns(make(), Engine(Training()))
    assert all(name.startswith("heads.") for name in turns.discriminator.tensors()["discriminator"])


def test_curves_hold_both_halves_and_the_validation(make):
    curves = duel.train(make()).curves
    assert {"loss_g", "loss_rec", "loss_adv", "loss_d", "loss_r1", "d_real", "d_fake", "val_rec"} <= set(curves)
    assert [k for k, _ in curves["loss_g"]] == [1, 2, 3]
    assert [k for k, _ in curves["val_rec"]] == [0, 1, 2, 3]
    assert [v > 0 for _, v in curves["loss_r1"]] == [True, False, True]


def test_a_killed_duel_continues_with_identical_losses(make, killed_at):
    whole = duel.train(make("whole")).curves
    with pytest.raises(killed_at(2)):
        duel.train(make("killed"))
    resumed = make("killed")
    assert duel.train(resumed).curves == whole


def test_the_generator_is_left_with_its_average(make):
    fight = make()
    turns = duel.Turns(fight, Engine(Training()))
    turns.take(0)
    average = {name: tensor.clone() for name, tensor in turns.generator.ema.average.items()}
    turns.generator.ema.copy_to_module()
    assert all(torch.equal(p, average[name]) for name, p in fight.generator.named_parameters())


def test_a_mechanism_learns_with_the_generator_at_its_own_rate_and_survives_a_kill(make, killed_at):
    def fight(folder):
        plain = make(folder)
        gates = temporal_pruning.attach(plain.generator)
        blocks = Learned(Budget((1.0,) * len(gates.names), keep=5))
        draw, settle = (lambda random: gates.set(blocks.draw(random))), (lambda: gates.set(blocks.settled()))
        return dataclasses.replace(plain, mechanism=duel.Mechanism(blocks, 0.05, draw, settle)), blocks

    whole, blocks = fight("whole")
    curves = duel.train(whole).curves
    assert float(blocks.logits.detach().abs().max()) > 0.01
    with pytest.raises(killed_at(3)):
        duel.train(fight("killed")[0])
    again, resumed = fight("killed")
    assert duel.train(again).curves == curves
    assert torch.equal(resumed.logits, blocks.logits)


def test_a_mechanisms_penalty_is_part_of_what_the_generator_descends(make):
    def value_after(weight: float) -> tuple[float, dict]:
        plain = make()
        outside = nn.ParameterDict({"value": nn.Parameter(torch.ones(()))})
        penalty = lambda: weight * outside["value"].abs()  # noqa: E731
        mechanism = duel.Mechanism(outside, 0.05, lambda _: None, lambda: None, penalty)
        told = duel.Turns(dataclasses.replace(plain, mechanism=mechanism), Engine(Training())).take(0)
        return float(outside["value"].detach()), told

    (shrunk, told), (still, _) = value_after(2.0), value_after(0.0)
    assert shrunk == pytest.approx(0.95, abs=1e-4)
    assert still == 1.0
    assert told["loss_penalty"] == 2.0


def test_what_a_mechanism_learns_does_not_decay_with_the_weights(make):
    """Importances that are drawn to 0 would be drawn to one another."""
    plain = make()
    decays = SETTINGS.model_copy(update={"generator": SETTINGS.generator.model_copy(update={"weight_decay": 0.5})})
    outside = nn.ParameterDict({"value": nn.Parameter(torch.ones(()))})
    mechanism = duel.Mechanism(outside, 0.05, lambda _: None, lambda: None)
    turns = duel.Turns(dataclasses.replace(plain, mechanism=mechanism, settings=decays), Engine(Training()))
    turns.take(0)
    assert float(outside["value"].detach()) == 1.0
    groups = turns.generator._optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
