"""A recipe's edits, budgets and learning rates, tried on its base's network without weights before any stage runs.

**Keeps** what is refused here is what a stage would refuse, by the stage's own functions
(``tests/stages/test_rehearsal.py``); which blocks pruning keeps is not known, so all that may stay are there.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mobilevd.errors import MobileVDError
from mobilevd.evaluation.block_costs import block_costs
from mobilevd.evaluation.cost import Cost, count
from mobilevd.method import still_start, surgery, temporal_pruning, truncated_svd
from mobilevd.method.discriminator import Discriminator
from mobilevd.params import Recipe
from mobilevd.settings import Adversarial, Optim, Prune
from mobilevd.stages import costs, distill, finetune, funnel, prune
from mobilevd.stages.job import cheaper
from mobilevd.svd import base as bases
from mobilevd.svd.base import Base
from mobilevd.training import optim


def rehearse(recipe: Recipe, base: Base) -> None:
    """Do to the base's network on the meta device what the training stages will do to it, one after the other.

    Errors: MobileVDError as the stage's own, headed by its name.
    """
    _Rehearsal(recipe, base).run()


class _Rehearsal:
    def __init__(self, recipe: Recipe, base: Base):
        self._recipe, clip = recipe, recipe.clip
        with torch.device("meta"):
            self._unet = surgery.rebuild(base.unet_config, []).to("meta")
        side = costs.downscale(base.folder / "vae" / "config.json")
        self._scale = bases.scaling_factor(str(base.folder))
        self._latents = (1, clip.frames, self._unet.config.out_channels, clip.height // side, clip.width // side)

    def run(self) -> None:
        for stage in (finetune, distill, prune, funnel):
            with _named(stage.STAGE):
                getattr(self, f"_{stage.STAGE}")()

    def _finetune(self) -> None:
        settings = self._recipe.finetune
        for edit in settings.apply:
            finetune.EDITS[edit](self._unet)
        self._move(settings.optim)

    def _distill(self) -> None:
        settings = self._recipe.distill
        for edit in settings.apply:
            distill.EDITS[edit](self._unet, getattr(settings, edit).down)
        if settings.still_start:
            still_start.apply(self._unet, settings.still_start.sigma, self._scale)
        self._duel(settings.adversarial)

    def _prune(self) -> None:
        settings = self._recipe.prune
        if settings.by in prune.GATED:
            self._duel(settings.adversarial)
        if not self._may_stay(settings):
            temporal_pruning.remove(self._unet, [])
        if settings.by not in prune.GATED:
            self._duel(settings.adversarial)

    def _may_stay(self, settings: Prune) -> bool:
        """Whether the budget leaves room for any temporal block."""
        whole, each = Cost({}, {}), dict.fromkeys(temporal_pruning.prunable(self._unet), 0.0)
        if settings.keep_tflops is not None:  # counting takes seconds
            whole, each = count(self._unet, self._latents), block_costs(self._unet, self._latents)
        return bool(prune.fit(settings, whole, each).choose(torch.zeros(len(each))).any())

    def _funnel(self) -> None:
        settings, before = self._recipe.funnel, self._weights()
        if settings.kind == "truncated":
            truncated_svd.apply(self._unet, settings.fun_factor, settings.where)
            self._duel(settings.adversarial)
        else:
            start = "csi" if settings.init == "data_aware" else settings.init
            funnel.place(self._unet, settings.model_copy(update={"init": start}))
            steps = [lambda: self._duel(settings.adversarial), lambda: funnel.merge(self._unet, settings)]
            for step in steps if settings.merge == "after" else reversed(steps):
                step()
        if funnel.saves(settings):
            cheaper(self._weights(), before, funnel.STAGE, funnel.STAGE, ("params_m",))

    def _weights(self) -> Cost:
        return Cost({}, {"all": sum(p.numel() for p in self._unet.parameters())})

    def _duel(self, settings: Adversarial) -> None:
        self._move(settings.generator)
        with torch.device("meta"):
            heads = Discriminator(self._unet, settings.heads, settings.head_channels)
        optim.groups(heads, settings.discriminator)
        self._unet.requires_grad_(True)

    def _move(self, settings: Optim) -> None:
        optim.groups(self._unet, settings)
        self._unet.requires_grad_(True)


@contextmanager
def _named(stage: str) -> Iterator[None]:
    try:
        yield
    except MobileVDError as error:
        told = {"got": error.got, "allowed": error.allowed, "where": error.where}
        raise type(error)(f"The stage {stage} could not run: {error.what}", **told) from None
