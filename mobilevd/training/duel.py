"""The one adversarial trainer: generator's turn, discriminator's turn, average of the generator.

**Keeps** distillation, pruning and funnels train through ``train`` alone; a killed training continues with
identical losses (``tests/training/test_duel.py``).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mobilevd.method import adversarial
from mobilevd.method.discriminator import Discriminator
from mobilevd.settings import Adversarial, Training
from mobilevd.svd.edm import Condition
from mobilevd.svd.sampler import OneStep
from mobilevd.training import data, loop, optim, seeds
from mobilevd.training.checkpoints import Checkpoints
from mobilevd.training.engine import Engine
from mobilevd.training.health import SIGNATURE, Watch
from mobilevd.training.learner import Learner

VALIDATION_CLIPS = 8
Show = Callable[[int, Tensor], dict[str, float]]


@dataclass(frozen=True)
class Mechanism:
    """Something outside the generator that learns with it at a rate of its own: the gates of pruning.

    ``before_step`` is given the same generator in every process. ``penalty`` is added to the generator's loss, and its
    value to the curves as loss_penalty.
    """

    module: nn.Module
    lr: float
    before_step: Callable[[torch.Generator], object]
    before_validation: Callable[[], object]
    penalty: Callable[[], Tensor] | None = None


@dataclass(frozen=True)
class Duel:
    """What one adversarial training needs.

    ``encoder`` is the network that the discriminator looks through; ``clips`` are the training and the validation file;
    ``ids`` [N 3] or [1 3] are the added ids of the training clips, [1 3] those of the validation clips. ``show`` is
    given each validation's step and its outputs [N F C H W], and returns what else is to be recorded. The heads start
    as in the file ``heads``, by default anew, and are left in the file ``left``.
    """

    generator: nn.Module
    encoder: nn.Module
    clips: tuple[Path, Path]
    ids: tuple[Tensor, Tensor]
    settings: Adversarial
    seed: int
    label: str
    how: Training = field(default_factory=Training)
    checkpoints: Checkpoints | None = None
    mechanism: Mechanism | None = None
    show: Show = lambda step, outputs: {}
    tell: loop.Tell | None = None
    heads: Path | None = None
    left: Path | None = None


def train(duel: Duel) -> loop.Run:
    """Train, leave the averaged weights in generator and mechanism, and return the curves and what happened.

    Every step: loss_g, loss_rec, loss_adv, loss_d, loss_hinge, loss_r1, d_real, d_fake (mean logits), grad_norm_g/_d,
    lr_g/_d. At validation: val_rec, the averaged weights' reconstruction loss in one evaluation, on fixed noise.
    """
    engine = Engine(duel.how)
    turns = Turns(duel, engine)
    trained = loop.run(
        loop.Training(
            turns.take,
            duel.settings.steps,
            [turns.generator, turns.discriminator],
            duel.label,
            turns.validate,
            duel.settings.validate_every,
            duel.checkpoints,
            duel.how.checkpoint_every,
            score="val_rec",
            leave_best=duel.how.leave == "best",
            watch=Watch(duel.how.health),
            tell=duel.tell,
        )
    )
    trained.seconds["clips"] = turns.feed.seconds
    turns.generator.ema.copy_to_module()
    turns.leave_heads()
    engine.release(duel.generator)
    return trained


class Turns:
    """Both learners, and what a step does with them."""

    def __init__(self, duel: Duel, engine: Engine):
        self._duel, self._engine, self._s = duel, engine, duel.settings
        clips, self._held_out = (data.Clips(path, ids) for path, ids in zip(duel.clips, duel.ids, strict=True))
        share = data.Share(self._s.batch_size, self._s.accumulate, engine.rank, engine.ranks)
        self.feed = data.Feed(clips, share, duel.seed, engine.device, duel.how.workers)
        self._network = engine.prepare(duel.generator)
        random = seeds.generator(duel.seed, "heads")
        undivided = self._s.look == "before_downsampler"
        heads = Discriminator(engine.place(duel.encoder), self._s.heads, self._s.head_channels, random, undivided)
        if duel.heads:
            heads.load_state_dict(load_file(duel.heads))
        self._heads = heads.to(engine.device)
        moving, groups = _moving(self._network, duel.mechanism, self._s)
        s, steps = self._s, self._s.steps
        self.generator = Learner("generator", moving, s.generator, steps, engine, s.ema_decay, groups, s.head_start)
        self.discriminator = Learner("discriminator", self._heads, s.discriminator, steps, engine)

    def take(self, step: int) -> dict[str, float]:
        """Both turns on every part, then both halves move, or, when one's gradient is not finite, neither.

        The discriminator sees the fakes the generator just made. In its head start it moves alone.
        """
        told = []
        for batch, generators in self.feed.parts(step):
            if self._duel.mechanism:  # the same draw for every part, each with a graph of its own
                self._duel.mechanism.before_step(seeds.generator(self._duel.seed, "step", step, "mechanism"))
            rows = zip(batch.latents.split(1), generators, strict=True)
            draws = data.stacked([adversarial.draw(x0, self._s, random) for x0, random in rows])
            fakes, losses = self._generators_turn(step, batch, draws)
            told.append(_floats(losses | self._discriminators_turn(step, batch, draws, fakes)))
        halves = {"_g": self.generator, "_d": self.discriminator}
        if self._ahead(step):
            del halves["_g"]
        norms = {side: half.ready(step) for side, half in halves.items()}
        moved = {side: half.move(step, norms[side]) for side, half in halves.items()}
        means = {name: sum(row[name] for row in told) / len(told) for name in told[0]}
        return means | {name + side: value for side, values in moved.items() for name, value in values.items()}

    def leave_heads(self) -> None:
        """Write the heads to the duel's file, if it has one: the first process, whose heads are everyone's."""
        if self._duel.left and self._engine.main:
            self._duel.left.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: value.cpu() for name, value in self._heads.state_dict().items()}, self._duel.left)

    def _generators_turn(self, step: int, batch: data.Batch, draws: adversarial.Draws):
        moves = not self._ahead(step)
        with self._engine.autocast(), torch.set_grad_enabled(moves):
            g = adversarial.generator_terms(
                self._network, self._heads, batch.latents, _condition(batch), draws, self._s
            )
        losses = {"loss_g": g.loss, "loss_rec": g.reconstruction, "loss_adv": g.adversarial} | self._penalty()
        if moves:
            self.generator.gather(g.loss + losses.get("loss_penalty", 0.0), step, self._s.accumulate)
        return g.fake_features, losses

    def _ahead(self, step: int) -> bool:
        return step < self._s.head_start

    def _penalty(self) -> dict[str, Tensor]:
        mechanism = self._duel.mechanism
        return {} if mechanism is None or mechanism.penalty is None else {"loss_penalty": mechanism.penalty()}

    def _discriminators_turn(self, step: int, batch: data.Batch, draws: adversarial.Draws, fakes: list[Tensor]):
        gamma = self._s.r1_gamma * self._s.r1_every if step % self._s.r1_every == 0 else 0.0
        with self._engine.autocast():
            given, by_difference = _condition(batch), self._s.r1_form == "difference"
            d = adversarial.discriminator_terms(self._heads, batch.latents, fakes, given, draws, gamma, by_difference)
        self.discriminator.gather(d.loss, step, self._s.accumulate)
        return {"loss_d": d.loss, "loss_hinge": d.hinge, "loss_r1": d.penalty, "d_real": d.real, "d_fake": d.fake}

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """The averaged generator's reconstruction loss in one evaluation from its start, over the validation clips."""
        one_step, losses, outputs = OneStep(self._network).eval(), [], []
        random = seeds.generator(self._duel.seed, "validation")
        with self.generator.ema.swapped(), self._engine.autocast():
            if self._duel.mechanism:
                self._duel.mechanism.before_validation()
            for index in range(min(VALIDATION_CLIPS, len(self._held_out))):
                clip = self._held_out.batch([index], self._engine.device)
                noise = torch.randn(clip.latents.shape, generator=random).to(clip.latents)
                outputs.append(one_step(noise, *_condition(clip)).float())
                losses.append(float(adversarial.reconstruction(outputs[-1], clip.latents, self._s)))
        one_step.train()
        shown = self._duel.show(step, torch.cat(outputs))
        if 0 < step <= self._s.head_start:  # the generator has not moved yet, and need not differ from itself
            shown.pop(SIGNATURE, None)
        return {"val_rec": sum(losses) / len(losses), **shown}


def _condition(batch: data.Batch) -> Condition:
    return Condition(batch.image_latents, batch.tokens, batch.ids)


def _moving(network: nn.Module, mechanism: Mechanism | None, settings: Adversarial):
    """The module that is trained, averaged and saved as one, and its parameters with their peak rates.

    What a mechanism learns does not decay: drawn to 0, importances would be drawn to one another.
    """
    groups = optim.groups(network, settings.generator)
    if mechanism is None:
        return network, groups
    both = nn.ModuleDict({"network": network, "mechanism": mechanism.module.to(next(network.parameters()).device)})
    return both, [*groups, optim.Group(list(mechanism.module.parameters()), mechanism.lr)]


def _floats(values: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in values.items()}
