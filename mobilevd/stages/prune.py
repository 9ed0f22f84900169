"""Prune: rank the temporal blocks as the recipe says, keep what its budget allows, remove the rest.

**Source** paper Table 1 row "+ temporal block pruning" and its ablation · **Keeps** exactly the chosen blocks are left,
and they are as many, or as cheap, as was asked for (``tests/stages/test_prune.py``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mobilevd.artifacts import StageRecord
from mobilevd.errors import EffectError, SurgeryError
from mobilevd.evaluation.block_costs import block_costs
from mobilevd.evaluation.cost import Cost
from mobilevd.method import temporal_pruning
from mobilevd.method.block_importance import Budget, Learned, Relaxed
from mobilevd.params import Recipe
from mobilevd.settings import Prune
from mobilevd.stages.job import Job
from mobilevd.svd.unet import VideoUNet, temporal_blocks
from mobilevd.training import seeds
from mobilevd.training.duel import Mechanism
from mobilevd.training.health import Curves

STAGE = "prune"
GATED = ("learned", "l1")  # train with all blocks, and remove at the end; the others first
IMPORTANCE = {"learned": "learned importance", "l1": "gate under L1", "magnitude": "1 − α", "random": "random order"}


@dataclass(frozen=True)
class Pruned:
    """What pruning left: the log entry, the curves, and for every block its importance and chance of being drawn."""

    entry: dict
    curves: Curves
    importances: Tensor
    probabilities: Tensor | None = None


def run(recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path) -> StageRecord:
    """Rank the temporal blocks of the distilled generator, train it, and leave it with the best ones.

    Learned and L1 gates train together with all blocks and remove at the end; by magnitude and at random the others are
    removed first. Inputs: prepare, finetune, distill. Errors: SurgeryError for a budget that this network cannot meet;
    EffectError when other or more blocks are left, or neither FLOPs nor parameters were saved; NonFiniteError.
    """
    job, settings = Job(STAGE, recipe, inputs, workdir), recipe.prune
    generator, log = job.network("distill")
    before, costs = job.measure(generator), block_costs(generator, job.latents())
    budget = fit(settings, before, costs)
    prune = {"learned": _learned, "l1": _l1}.get(settings.by, _ranked)
    pruned = prune(job, generator, budget)
    log.append(pruned.entry)
    after = measured(job, generator, before, list(costs), pruned.entry["keep"])
    rows = _rows(pruned, costs, budget, settings)
    values = [value for _, value in pruned.curves["val_rec"]]
    figures = {"blocks_before": float(len(costs)), "blocks_after": float(len(temporal_blocks(generator)))}
    figures |= {"rec_loss_before": values[0], "rec_loss_after": values[-1]}
    picture = _draw(rows, IMPORTANCE[settings.by], job.workdir / "pictures" / "importances.png")
    drawn, tables = {"importances": picture}, {"blocks": rows}
    return job.record(generator, log, (before, after), pruned.curves, figures, drawn, tables)


def fit(settings: Prune, before: Cost, costs: dict[str, float]) -> Budget:
    """The recipe's budget for a network that costs ``before``, of which its temporal blocks cost ``costs``.

    Errors: SurgeryError when there are fewer blocks, or no choice of blocks costs that little, or all of them do.
    """
    blocks, bare = len(costs), before.tflops - sum(costs.values())
    if settings.keep is not None and settings.keep > blocks:
        what, allowed = "The network does not have that many temporal blocks", f"0 to {blocks}"
        raise SurgeryError(what, got=settings.keep, allowed=allowed, where="prune.keep")
    if settings.keep_tflops is not None and not bare <= settings.keep_tflops < before.tflops:
        what, allowed = "Removing temporal blocks cannot lead there", f"{bare:.6f} to less than {before.tflops:.6f}"
        raise SurgeryError(what, got=settings.keep_tflops, allowed=allowed, where="prune.keep_tflops")
    room = None if settings.keep_tflops is None else settings.keep_tflops - bare
    return Budget(tuple(costs.values()), settings.keep, room, settings.rank == "importance_per_tflop")


def _learned(job: Job, generator: VideoUNet, budget: Budget) -> Pruned:
    importances = Learned(budget)
    entry, curves = _gated(job, generator, importances)
    return Pruned(entry, curves, importances.scores(), importances.probabilities())


def _l1(job: Job, generator: VideoUNet, budget: Budget) -> Pruned:
    relaxed = Relaxed(budget, job.recipe.prune.l1_weight)
    entry, curves = _gated(job, generator, relaxed, relaxed.penalty)
    return Pruned(entry, curves, relaxed.scores())


def _gated(
    job: Job, generator: VideoUNet, blocks: Learned | Relaxed, penalty: Callable[[], Tensor] | None = None
) -> tuple[dict, Curves]:
    settings, gates = job.recipe.prune, temporal_pruning.attach(generator)
    mechanism = Mechanism(
        blocks,
        settings.importance_lr,
        before_step=lambda random: gates.set(blocks.draw(random)),
        before_validation=lambda: gates.set(blocks.settled()),
        penalty=penalty,
    )
    curves = job.train(generator, settings.adversarial, mechanism)
    gates.set(blocks.settled())
    return temporal_pruning.bake(generator, gates), curves


def _ranked(job: Job, generator: VideoUNet, budget: Budget) -> Pruned:
    """Blocks ranked without training, removed before it."""
    names = list(temporal_blocks(generator))
    if job.recipe.prune.by == "magnitude":
        importances = temporal_pruning.magnitudes(generator).cpu()
    else:
        importances = torch.rand(len(names), generator=seeds.generator(job.seed, "blocks"))
    kept = [name for name, stays in zip(names, budget.choose(importances).tolist(), strict=True) if stays]
    entry = temporal_pruning.remove(generator, kept)
    return Pruned(entry, job.train(generator, job.recipe.prune.adversarial), importances)


def measured(job: Job, generator: VideoUNet, before: Cost, blocks: list[str], kept: list[str]) -> Cost:
    """The cost of what is left of ``generator``, which cost ``before`` with all ``blocks``.

    Errors: EffectError when it is not what the recipe declared.
    """
    settings, left = job.recipe.prune, list(temporal_blocks(generator))
    if left != kept:
        what = "Other temporal blocks are left than were chosen"
        raise EffectError(what, got=", ".join(left), allowed=", ".join(kept), where=STAGE)
    if settings.keep is not None and len(left) != settings.keep:
        what = "Another number of temporal blocks is left than was declared"
        raise EffectError(what, got=len(left), allowed=str(settings.keep), where="prune.keep")
    after = before if kept == blocks else job.cheaper(generator, before, STAGE, weights_too=True)
    if settings.keep_tflops is not None and not after.tflops <= settings.keep_tflops * (1.0 + 1.0e-9):
        what, allowed = "The pruned network costs more than was declared", f"at most {settings.keep_tflops}"
        raise EffectError(what, got=f"{after.tflops:.6f} TFLOPs", allowed=allowed, where="prune.keep_tflops")
    return after


def _rows(pruned: Pruned, costs: dict[str, float], budget: Budget, settings: Prune) -> list[dict]:
    """One row per block: what it costs, its importance, and why it was kept or not."""
    kept, blocks = set(pruned.entry["keep"]), len(costs)
    rank = {index: place for place, index in enumerate(budget.ranking(pruned.importances), 1)}
    by = IMPORTANCE[settings.by] + (" per TFLOP" if budget.per_tflop else "")
    short = f"{settings.keep} stay" if settings.keep is not None else f"does not fit {settings.keep_tflops} TFLOPs"
    rows = [
        {
            "block": name,
            "tflops": costs[name],
            "importance": round(float(pruned.importances[index]), 4),
            "kept": name in kept,
            "why": f"{rank[index]} of {blocks} by {by}" + ("" if name in kept else f"; {short}"),
        }
        for index, name in enumerate(costs)
    ]
    if pruned.probabilities is None:
        return rows
    return [row | {"probability": round(p, 4)} for row, p in zip(rows, pruned.probabilities.tolist(), strict=True)]


def _draw(rows: list[dict], label: str, path: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.24 * len(rows) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours = ["tab:blue" if row["kept"] else "lightgray" for row in rows]
    axes.barh([row["block"] for row in rows], [row["importance"] for row in rows], color=colours)
    axes.invert_yaxis()
    axes.set_xlabel(f"{label} (blue: kept)")
    axes.tick_params(axis="y", labelsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    return path
