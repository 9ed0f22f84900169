"""Bar charts for the cards of quantization and profiling: one bar per row, its value written beside it."""

from pathlib import Path
from typing import NamedTuple

BLUE, GREY = "#3b6ea8", "#9aa5b1"
WHOLE_FROM = 100


class Panel(NamedTuple):
    """One chart: a title, the axis with its unit, and label → value for every group, top to bottom."""

    title: str
    axis: str
    groups: dict[str, dict[str, float]]


def bars(panels: list[Panel], path: Path, title: str) -> Path:
    """Write a PNG with the panels side by side; groups of one panel share its labels and get a legend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = max(len(_labels(panel)) for panel in panels)
    figure = Figure(figsize=(6.4 * len(panels), 1.5 + 0.34 * max(rows, 3)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for index, panel in enumerate(panels):
        _draw(figure.add_subplot(1, len(panels), index + 1), panel)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return Path(path)


def _draw(axes, panel: Panel) -> None:
    labels = _labels(panel)
    height = 0.8 / len(panel.groups)
    for index, ((name, group), colour) in enumerate(zip(panel.groups.items(), (BLUE, GREY), strict=False)):
        places = [row - 0.4 + height * (index + 0.5) for row in range(len(labels))]
        drawn = axes.barh(places, [group.get(label, 0.0) for label in labels], height * 0.92, label=name, color=colour)
        axes.bar_label(drawn, [_told(group.get(x)) for x in labels], padding=3, fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel(panel.axis)
    axes.margins(x=0.14)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if len(panel.groups) > 1:
        axes.legend(frameon=False, fontsize=8)


def _told(value: float | None) -> str:
    """Three digits, whole numbers from a hundred on; nothing for what is not there."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= WHOLE_FROM else f"{value:.3g}"


def _labels(panel: Panel) -> list[str]:
    """All labels, the rows of the longest group first and in its order."""
    groups = sorted(panel.groups.values(), key=len, reverse=True)
    return list(dict.fromkeys(label for group in groups for label in group))
