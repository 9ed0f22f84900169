"""The one-step network as a static ONNX graph: traced, folded, checked, and compared with torch on real inputs.

**Source** torch.export; opset 18–20 (17 writes an invalid file, 21 emits GroupNormalization, which the quantized path
of Qualcomm's provider lacks; below 20 GELU is an Erf, which an NPU leaves to the CPU). **Keeps** torch's output to
90 dB or better (``tests/device/test_export.py``).
"""

import ast
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from mobilevd.device import silu
from mobilevd.device.fidelity import sqnr_db
from mobilevd.device.inputs import GraphSpec
from mobilevd.device.session import ERRORS_ONLY, data_file, open_session
from mobilevd.errors import EffectError, MobileVDError

PARITY_DB = 90.0
OPSETS = range(18, 21)
EXTERNAL_ABOVE = 1_500_000_000  # bytes of weights; a protobuf file ends at 2 GB, and folding adds constants
SCOPES = "pkg.torch.onnx.name_scopes"  # the exporter's note on each node: module path, innermost last, then the call
EXTERNAL_TENSOR = 1 << 14  # bytes; smaller tensors (shapes, scales, biases) stay in the graph
CONSTANT = "_constant"  # how the names of stored tensors end


def export(
    network: nn.Module,
    spec: GraphSpec,
    path: Path,
    opset: int,
    external_above: int = EXTERNAL_ABOVE,
    rewrite_silu: bool = True,
) -> None:
    """Write ``network`` to ``path``; beyond ``external_above`` bytes the weights go to ``<name>.onnx.data``.

    Args:
        network: takes the inputs of ``spec`` in their order and gives its one output.
        opset: 18, 19 or 20.
        rewrite_silu: as the NPU needs it; without, as torch has it, to see what the NPU makes of that.
    Errors: MobileVDError for another opset, EffectError for a graph with operators outside of ONNX.
    """
    if opset not in OPSETS:
        raise MobileVDError("This opset cannot be used", got=opset, allowed="18, 19, 20", where="quantize.opset")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix="export-") as aside:
        raw = Path(aside) / "traced.onnx"
        external = sum(p.numel() * p.element_size() for p in network.parameters()) > external_above
        _trace(network, spec, opset).save(str(raw), external_data=external)
        _name_nodes(raw)
        _fold(raw, path, external)
    _check(path, rewrite_silu)


def parity_db(
    network: Callable[..., Tensor], path: Path, spec: GraphSpec, feeds: Sequence[dict[str, np.ndarray]]
) -> float:
    """The smallest SQNR in dB of the graph at ``path`` against ``network``, in evaluation mode, over ``feeds``.

    Errors: EffectError below 90 dB.
    """
    session = open_session(path)
    worst = min(sqnr_db(_in_torch(network, spec, feed), session.run(None, feed)[0]) for feed in feeds)
    if not worst >= PARITY_DB:
        raise EffectError(
            "The exported graph does not compute what torch does",
            got=f"{worst:.1f} dB",
            allowed=f"{PARITY_DB:.0f} dB or more",
            where=str(path),
        )
    return worst


def file_bytes(path: Path) -> int:
    """Size of a graph with its external data."""
    return sum(p.stat().st_size for p in (Path(path), data_file(Path(path))) if p.is_file())


def _trace(network: nn.Module, spec: GraphSpec, opset: int) -> torch.onnx.ONNXProgram:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision, which is not used here
    examples = spec.random(torch.Generator().manual_seed(0))
    return torch.onnx.export(
        network.eval(),
        tuple(torch.from_numpy(examples[name]) for name in spec.names),
        dynamo=True,
        opset_version=opset,
        input_names=spec.names,
        output_names=[output.name for output in spec.outputs],
        verbose=False,
    )


def _name_nodes(raw: Path) -> None:
    """Every node is named after the module it came from, ``down_blocks.0.resnets.0.conv1/Conv``, and numbered."""
    model = onnx.load(raw, load_external_data=False)
    counts: Counter[str] = Counter()
    for node in model.graph.node:
        scopes = next((ast.literal_eval(p.value) for p in node.metadata_props if p.key == SCOPES), [])
        name = f"{scopes[-2] if len(scopes) > 1 else ''}/{node.op_type}"
        counts[name] += 1
        node.name = name if counts[name] == 1 else f"{name}.{counts[name]}"
    onnx.save(model, raw)


def _fold(raw: Path, path: Path, external: bool) -> None:
    """Constants folded and dead nodes gone, by the runtime's basic optimisations, before anything is quantized."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = ERRORS_ONLY
    if external:
        prefix = "session.optimized_model_external_initializers_"
        options.add_session_config_entry(prefix + "file_name", data_file(path).name)
        options.add_session_config_entry(prefix + "min_size_in_bytes", str(EXTERNAL_TENSOR))
    ort.InferenceSession(str(raw), options, providers=["CPUExecutionProvider"])


def _check(path: Path, rewrite_silu: bool) -> None:
    """Only ONNX's own operators; the imports that the optimiser left are dropped; the checker passes."""
    model = onnx.load(path, load_external_data=False)
    if strange := sorted({f"{node.domain}::{node.op_type}" for node in model.graph.node if node.domain}):
        raise EffectError("The graph holds operators outside of ONNX", got=", ".join(strange), where=str(path))
    used = [entry for entry in model.opset_import if not entry.domain]
    del model.opset_import[:]
    model.opset_import.extend(used)
    if rewrite_silu:
        silu.rewrite(model.graph)
    _end_in_letters(model.graph)
    onnx.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)


def _end_in_letters(graph: onnx.GraphProto) -> None:
    """Quantizers copy a shared constant under its name and a digit: ``val_11`` must not become ``val_113``."""
    stored = {tensor.name for tensor in graph.initializer}
    for tensor in graph.initializer:
        tensor.name += CONSTANT
    for node in graph.node:
        node.input[:] = [name + CONSTANT if name in stored else name for name in node.input]


@torch.no_grad()
def _in_torch(network: Callable[..., Tensor], spec: GraphSpec, feed: dict[str, np.ndarray]) -> np.ndarray:
    return network(*(torch.from_numpy(feed[name]) for name in spec.names)).numpy()
