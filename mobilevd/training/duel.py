"""The one adversarial trainer: generator's turn, discriminator's turn, average of the generator.

**Keeps** distillation, pruning and funnels train through ``train`` alone; a killed training continues with
identical losses (``tests/training/test_duel.py``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mobilevd.method import adversarial
from mobilevd.method.discriminator import Discriminator
from mobilevd.params import Adversarial
from mobilevd.svd.edm import Condition
from mobilevd.svd.sampler import OneStep
from mobilevd.training import data, loop, seeds
from mobilevd.training.checkpoints import Checkpoints
from mobilevd.training.learner import Learner

VALIDATION_CLIPS = 16


@dataclass(frozen=True)
class Mechanism:
    """Something outside the generator that learns with it at a rate of its own: the gates of pruning.

    ``penalty`` is added to the generator's loss, and its value to the curves as loss_penalty.
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
    ``ids`` [1 3] are the added ids of every clip.
    """

    generator: nn.Module
    encoder: nn.Module
    clips: tuple[Path, Path]
    ids: Tensor
    settings: Adversarial
    seed: int
    label: str
    checkpoints: Checkpoints | None = None
    mechanism: Mechanism | None = None


def train(duel: Duel) -> loop.Curves:
    """Train, leave the averaged weights in generator and mechanism, and return the curves.

    Every step: loss_g, loss_rec, loss_adv, loss_d, loss_r1, d_real, d_fake (mean logits), grad_norm_g/_d, lr_g/_d. At
    validation: val_rec, the averaged weights' reconstruction loss from pure noise at σ_max, on fixed noise.
    """
    turns = Turns(duel, Accelerator())
    curves = loop.run(
        turns.take,
        duel.settings.steps,
        [turns.generator, turns.discriminator],
        label=duel.label,
        checkpoints=duel.checkpoints,
        validate=turns.validate,
        validate_every=duel.settings.validate_every,
    )
    turns.generator.ema.copy_to_module()
    return curves


class Turns:
    """Both learners, and what a step does with them."""

    def __init__(self, duel: Duel, accelerator: Accelerator):
        self._duel, self._accelerator, self._s = duel, accelerator, duel.settings
        device, steps = accelerator.device, duel.settings.steps
        self._clips, self._held_out = (data.Clips(path, device) for path in duel.clips)
        self._network = duel.generator.to(device).train()
        random = seeds.generator(duel.seed, "heads")
        self._heads = Discriminator(duel.encoder.to(device), self._s.heads, self._s.head_channels, random).to(device)
        moving, groups = _moving(self._network, duel.mechanism, self._s.generator.lr)
        self.generator = Learner("generator", moving, self._s.generator, steps, accelerator, self._s.ema_decay, groups)
        self.discriminator = Learner("discriminator", self._heads, self._s.discriminator, steps, accelerator)

    def take(self, step: int) -> dict[str, float]:
        """One turn of each half, on one batch; the discriminator sees the fakes that the generator just made."""
        rank, ranks = self._accelerator.process_index, self._accelerator.num_processes
        random = seeds.generator(self._duel.seed, "step", step, rank)
        batch = self._clips.batch(data.order(len(self._clips), self._s.batch_size, step, self._duel.seed, rank, ranks))
        draws = adversarial.draw(batch.latents, self._s, random)
        if self._duel.mechanism:
            self._duel.mechanism.before_step(random)
        g, told_g = self._generators_turn(step, batch, draws)
        return told_g | self._discriminators_turn(step, batch, draws, g.fake_features)

    def _generators_turn(self, step: int, batch: data.Batch, draws: adversarial.Draws):
        with self._accelerator.autocast():
            g = adversarial.generator_terms(
                self._network, self._heads, batch.latents, self._condition(batch), draws, self._s
            )
        losses = {"loss_g": g.loss, "loss_rec": g.reconstruction, "loss_adv": g.adversarial} | self._penalty()
        moved = self.generator.move(g.loss + losses.get("loss_penalty", 0.0), step)
        return g, _floats(losses) | {"grad_norm_g": moved["grad_norm"], "lr_g": moved["lr"]}

    def _penalty(self) -> dict[str, Tensor]:
        mechanism = self._duel.mechanism
        return {} if mechanism is None or mechanism.penalty is None else {"loss_penalty": mechanism.penalty()}

    def _discriminators_turn(self, step: int, batch: data.Batch, draws: adversarial.Draws, fakes: list[Tensor]):
        gamma = self._s.r1_gamma * self._s.r1_every if step % self._s.r1_every == 0 else 0.0
        with self._accelerator.autocast():
            d = adversarial.discriminator_terms(self._heads, batch.latents, fakes, self._condition(batch), draws, gamma)
        moved = self.discriminator.move(d.loss, step)
        losses = {"loss_d": d.loss, "loss_r1": d.penalty, "d_real": d.real, "d_fake": d.fake}
        return _floats(losses) | {"grad_norm_d": moved["grad_norm"], "lr_d": moved["lr"]}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The averaged generator's reconstruction loss in one evaluation from pure noise, over the validation clips."""
        one_step, losses = OneStep(self._network).eval(), []
        random = seeds.generator(self._duel.seed, "validation")
        with self.generator.ema.swapped():
            if self._duel.mechanism:
                self._duel.mechanism.before_validation()
            for index in range(min(VALIDATION_CLIPS, len(self._held_out))):
                clip = self._held_out.batch([index])
                noise = torch.randn(clip.latents.shape, generator=random).to(clip.latents)
                estimate = one_step(noise, *self._condition(clip))
                losses.append(float(adversarial.pseudo_huber(estimate, clip.latents, self._s.huber_c)))
        one_step.train()
        return {"val_rec": sum(losses) / len(losses)}

    def _condition(self, batch: data.Batch) -> Condition:
        ids = self._duel.ids.to(batch.latents).expand(len(batch.latents), -1)
        return Condition(batch.image_latents, batch.tokens, ids)


def _moving(network: nn.Module, mechanism: Mechanism | None, lr: float):
    """The module that is trained, averaged and saved as one, and its parameters with their peak rates."""
    groups = [([p for p in network.parameters() if p.requires_grad], lr)]
    if mechanism is None:
        return network, groups
    both = nn.ModuleDict({"network": network, "mechanism": mechanism.module.to(next(network.parameters()).device)})
    return both, [*groups, (list(mechanism.module.parameters()), mechanism.lr)]


def _floats(values: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in values.items()}
