"""Prune: learn under the adversarial loss which temporal blocks matter, keep the recipe's number, remove the rest.

**Source** paper Table 1 row "+ temporal block pruning" · **Keeps** exactly ``keep`` temporal blocks are left
(``tests/stages/test_prune.py``).
"""

from pathlib import Path

from mobilevd.artifacts import StageRecord
from mobilevd.errors import EffectError
from mobilevd.method import temporal_pruning
from mobilevd.params import Recipe
from mobilevd.stages.job import Job
from mobilevd.svd.unet import VideoUNet, temporal_blocks
from mobilevd.training.duel import Mechanism

STAGE = "prune"


def run(recipe: Recipe, inputs: dict[str, StageRecord], workdir: Path) -> StageRecord:
    """Gate every temporal block of the distilled generator, train weights and importances, bake the top ones.

    Inputs: prepare, finetune, distill. Errors: SurgeryError when ``keep`` exceeds the number of blocks; EffectError
    when other blocks than the chosen are left or no FLOPs were saved; NonFiniteError on divergence.
    """
    job, settings = Job(STAGE, recipe, inputs, workdir), recipe.prune
    generator, log = job.network("distill")
    before, names = job.measure(generator), list(temporal_blocks(generator))
    gates = temporal_pruning.attach(generator, settings.keep)
    mechanism = Mechanism(gates, settings.importance_lr, gates.sample, gates.keep_top)
    curves = job.train(generator, settings.adversarial, mechanism)
    rows, kept = _rows(gates), gates.top()
    log.append(temporal_pruning.bake(generator, gates))
    _check_left(generator, kept)
    after = job.cheaper(generator, before, STAGE) if settings.keep < len(names) else before
    values = [value for _, value in curves["val_rec"]]
    figures = {"blocks_before": float(len(names)), "blocks_after": float(len(kept))}
    figures |= {"rec_loss_before": values[0], "rec_loss_after": values[-1]}
    picture = _draw(rows, job.workdir / "pictures" / "importances.png")
    return job.record(generator, log, (before, after), curves, figures, {"importances": picture}, {"blocks": rows})


def _rows(gates: temporal_pruning.TemporalGates) -> list[dict]:
    kept = set(gates.top())
    values = zip(gates.names, gates.probabilities().tolist(), gates.logits.exp().tolist(), strict=True)
    return [
        {"block": name, "probability": round(p, 4), "importance": round(q, 4), "kept": name in kept}
        for name, p, q in values
    ]


def _check_left(generator: VideoUNet, kept: list[str]) -> None:
    if (left := list(temporal_blocks(generator))) != kept:
        raise EffectError(
            "Other temporal blocks are left than were chosen", got=", ".join(left), allowed=", ".join(kept)
        )


def _draw(rows: list[dict], path: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.24 * len(rows) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours = ["tab:blue" if row["kept"] else "lightgray" for row in rows]
    axes.barh([row["block"] for row in rows], [row["probability"] for row in rows], color=colours)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("inclusion probability (blue: kept)")
    axes.tick_params(axis="y", labelsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    return path
