"""Curves as a picture: one small panel per curve, for the card of a stage."""

import math
from pathlib import Path

from mobilevd.training.health import Curves

COLUMNS = 3


def draw(curves: Curves, path: Path, title: str) -> Path:
    """Write a PNG with every curve over the steps; long curves get a running mean over a twentieth of their length."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = math.ceil(len(curves) / COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 2.4 * rows))
    FigureCanvasAgg(figure)
    figure.suptitle(title, y=1 - 0.05 / rows, va="top")
    figure.subplots_adjust(left=0.05, right=0.98, hspace=0.45, bottom=0.3 / rows, top=1 - 0.35 / rows)
    for index, (name, points) in enumerate(sorted(curves.items())):
        axes = figure.add_subplot(rows, COLUMNS, index + 1)
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, linewidth=0.7, alpha=0.45, marker="." if len(points) < 30 else None)
        axes.plot(steps, _running_mean(list(values), max(1, len(values) // 20)), linewidth=1.4)
        axes.set_title(name, fontsize=9)
        axes.grid(alpha=0.3)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    return Path(path)


def _running_mean(values: list[float], window: int) -> list[float]:
    parts = [values[max(0, i - window + 1) : i + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in parts]
