"""The paper's ablations as data: what was compared, the recipe that makes it, the paper's TFLOPs beside our count.

**Source** MobileVD (arXiv 2412.07583) Tables 3–6. **Keeps** every count within ``tolerance`` of what the paper prints,
one-decimal figures after their rounding (``tests/test_counts.py``). Deviates: the order of removal.
"""

from dataclasses import dataclass
from functools import cache, partial

from mobilevd.evaluation.cost import Cost, Edit, counted, prune
from mobilevd.method import (
    channel_funnel,
    conv_funnel,
    cross_attention,
    spatial_multiscale,
    temporal_multiscale,
    truncated_svd,
)

CROSS, FRAMES, SPACE = cross_attention.apply, temporal_multiscale.apply, spatial_multiscale.apply


@dataclass(frozen=True)
class Ablation:
    """One row: the edits of SVD's network at 512x256, the paper's TFLOPs as printed (None: not there), FVD at 25 fps.

    ``recipe``: its name in recipes/ablations, None for a row without one; ``tolerance``: the share by which our count
    may miss the paper's.
    """

    table: str
    row: str
    edits: tuple[Edit, ...]
    paper_tflops: float | None
    paper_fvd: int
    recipe: str | None = None
    decimals: int = 2
    tolerance: float = 0.02

    @property
    def cost(self) -> Cost:
        """Our count."""
        return counted(self.edits)

    @property
    def miss(self) -> float | None:
        """(ours − paper) / paper, from the nearest end of what rounds to the paper's figure; None without one."""
        if self.paper_tflops is None:
            return None
        half = 0.5 * 10.0**-self.decimals
        nearest = min(max(self.cost.tflops, self.paper_tflops - half), self.paper_tflops + half)
        return self.cost.tflops / nearest - 1.0


@cache
def funnels(fun_factor: float) -> Edit:
    """Funnels on all self-attention, merged: one and the same edit for one fun-factor."""
    return partial(channel_funnel.narrow, fun_factor=fun_factor, where="all")


def truncated(fun_factor: float) -> Edit:
    """Each matrix of all self-attention cut by itself."""
    return partial(truncated_svd.narrow, fun_factor=fun_factor, where="all")


@cache
def pruned(n: int) -> tuple[Edit, ...]:
    """The multiscaled network with ``n`` of 38 temporal blocks."""
    return (CROSS, FRAMES, partial(prune, n=n))


convolutions = partial(conv_funnel.narrow, fun_factor=0.5, where="all")

ABLATIONS = (
    Ablation("multiscaling", "none", (CROSS,), 8.24, 133, "multiscale-none"),
    Ablation("multiscaling", "temporal", (CROSS, FRAMES), 5.42, 138, "multiscale-temporal-max"),
    Ablation("multiscaling", "spatial", (CROSS, SPACE), 4.35, 145, "multiscale-spatial-max", tolerance=0.08),
    Ablation("multiscaling", "both", (CROSS, FRAMES, SPACE), 3.39, 163, "multiscale-both-max"),
    Ablation("fun-factor", "r = 1.00", (CROSS,), None, 133, "funnel-r100"),
    Ablation("fun-factor", "r = 0.75", (CROSS, funnels(0.75)), None, 145, "funnel-r75"),
    Ablation("fun-factor", "r = 0.50", (CROSS, funnels(0.5)), None, 132, "funnel-r50"),
    Ablation("fun-factor", "r = 0.50, He start", (CROSS, funnels(0.5)), None, 332, "funnel-he"),
    Ablation("fun-factor", "r = 0.25", (CROSS, funnels(0.25)), None, 155, "funnel-r25"),
    Ablation("width", "funnels r = 0.5", (funnels(0.5),), 8.0, 132, "funnel-r50", 1),
    Ablation(
        "width", "funnels r = 0.5, merged before finetuning", (funnels(0.5),), 8.0, 138, "funnel-merged-before", 1
    ),
    Ablation("width", "funnels r = 0.5 on convolutions", (convolutions,), 7.2, 139, "funnel-convolutions", 1),
    Ablation("width", "truncated decomposition r = 0.5", (truncated(0.5),), 8.6, 142, "funnel-truncated-r50", 1),
    Ablation("width", "truncated decomposition r = 0.25", (truncated(0.25),), 8.0, 130, "funnel-truncated-r25", 1),
    Ablation("temporal pruning", "70 %: 11 blocks stay", pruned(11), 4.64, 127, "prune-learned-70"),
    Ablation("temporal pruning", "80 %: 8 blocks stay", pruned(8), 4.35, 245, "prune-learned-80"),
    Ablation("temporal pruning", "90 %: 4 blocks stay", pruned(4), 4.06, 201, "prune-learned-90"),
    Ablation("temporal pruning", "L1, 70 %: 11 blocks stay", pruned(11), 4.67, 207, "prune-l1-70"),
    Ablation("temporal pruning", "L1, 53 %: 18 blocks stay", pruned(18), 5.17, 165, "prune-l1-53"),
)
