"""What a device would not take of a model's graphs, before anything is compiled or uploaded.

**Keeps** a graph that leaves the NPU in part is refused, with the layers and their share of the FLOPs
(``tests/stages/test_preflights.py``).
"""

from dataclasses import asdict
from pathlib import Path

from mobilevd.device import animate, preflight, targets
from mobilevd.errors import MobileVDError
from mobilevd.stages import models

SHOWN = 8


def rows(model: str, device: str) -> list[dict]:
    """One row per graph of ``model`` (an ONNX file, or a bundle): sizes, and what ``device`` would not take.

    Errors: MobileVDError for an unknown device, or where there is no graph.
    """
    target = targets.find(device)
    return [_row(path, preflight.check(path, target)) for path in _graphs(model)]


def shown(found: list[dict]) -> list[dict]:
    """The rows for a terminal."""
    return [
        {
            "graph": row["graph"],
            "weights, MB": row["weights_mb"],
            "GFLOPs": row["gflops"],
            "largest tensor": row["largest_tensor"],
            "not taken": len(row["findings"]),
            "of the FLOPs": f"{row['fallback_share']:.1%}",
        }
        for row in found
    ]


def lines(row: dict) -> list[str]:
    """What is not taken of one graph, the costliest first."""
    findings = sorted(row["findings"], key=lambda finding: -finding["share"])
    told = [str(preflight.Finding(**finding)) for finding in findings[:SHOWN]]
    return told + ([f"… and {len(findings) - SHOWN} more: --json"] if len(findings) > SHOWN else [])


def _row(path: Path, seen: preflight.Preflight) -> dict:
    return {
        "graph": path.name,
        "device": seen.target,
        "weights_mb": seen.graph_mb,
        "gflops": seen.flops / 1e9,
        "largest_tensor": seen.largest_tensor,
        "fallback_share": seen.fallback_share,
        "findings": [asdict(finding) for finding in seen.findings],
    }


def _graphs(model: str) -> list[Path]:
    if model.endswith(".onnx"):
        found = [Path(model)] if Path(model).is_file() else []
    else:
        folder = models.folder(model, "MODEL")
        found = [path for part in (animate.NETWORKS, animate.ENDS) for path in sorted((folder / part).glob("*.onnx"))]
    if not found:
        raise MobileVDError("There is no graph", got=model, allowed="an ONNX file, or a bundle's folder")
    return found
