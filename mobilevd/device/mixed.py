"""Mixed precision: 8-bit activations wherever they may be, 16-bit ones in the blocks that a limit of noise asks for.

**Keeps** the limit holds with the blocks chosen, and would not without the last of them
(``tests/device/test_mixed.py``).
"""

import bisect
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from mobilevd.device.calibrate import Ranges
from mobilevd.device.fidelity import sqnr_db
from mobilevd.device.noise import block
from mobilevd.device.quantize import Kind, quantize
from mobilevd.device.session import open_session
from mobilevd.errors import EffectError
from mobilevd.progress import track

NARROW = "uint8"
Feeds = Sequence[dict[str, np.ndarray]]


class Chosen(NamedTuple):
    """Block → SQNR in dB at the output with that block alone in 8 bits, the most sensitive first; those in 16 bits."""

    alone: dict[str, float]
    wide: tuple[str, ...]
    kinds: list[Kind]


def choose(
    source: Path, target: Path, found: Ranges, feeds: Feeds, budget_db: float, weights: Collection[str] = ()
) -> Chosen:
    """Write to ``target`` the graph with as few blocks in 16 bits as bring its output ``budget_db`` above the noise.

    Blocks are widened in the order of their sensitivity, measured one by one; what enters the network has 16 bits.
    ``weights``, of convolutions, have 16 bits in widened blocks.
    Errors: EffectError when 16 bits everywhere are not enough.
    """
    inputs, tensors = by_block(source, found)

    def reached(blocks: Iterable[str]) -> tuple[list[Kind], float]:
        """Operator types, and the lowest SQNR over the feeds, with these blocks in 16 bits."""
        widened = {*inputs, *(t for name in blocks for t in tensors[name])}
        kinds = quantize(source, target, found, NARROW, widened, weights)
        both = [open_session(path) for path in (source, target)]
        return kinds, min(sqnr_db(*(session.run(None, feed)[0] for session in both)) for feed in feeds)

    measured = track(tensors, len(tensors), "measuring the blocks' sensitivity")
    alone = {name: reached(set(tensors) - {name})[1] for name in measured}
    ordered = sorted(alone, key=alone.__getitem__)
    count = bisect.bisect_left(range(len(ordered)), budget_db, key=lambda count: reached(ordered[:count])[1])
    kinds, least = reached(ordered[:count])
    if least < budget_db:
        raise EffectError(
            "The limit of noise is not met with 16-bit activations everywhere",
            got=f"{least:.1f} dB",
            allowed=f"{budget_db:g} dB or more",
            where="quantize.budget_db in the recipe",
        )
    return Chosen({name: alone[name] for name in ordered}, tuple(ordered[:count]), kinds)


def by_block(source: Path, found: Ranges) -> tuple[list[str], dict[str, list[str]]]:
    """What enters the network, and block → the activations that its nodes make, as far as their ranges are known."""
    graph = onnx.load(source, load_external_data=False).graph
    tensors: dict[str, list[str]] = {}
    for node in graph.node:
        name = block(node.name) if "/" in node.name else ""  # the exporter's own nodes have no layer
        tensors.setdefault(name, []).extend(tensor for tensor in node.output if tensor in found)
    outside = tensors.pop("", [])
    entering = [given.name for given in graph.input if given.name in found]
    return [*entering, *outside], {name: made for name, made in tensors.items() if made}
