"""Where 16-bit SiLU collapses: both of its forms, in the whole network or the longest beginning that the emulator runs.

Used by phone_path.py. A beginning is everything from the inputs to a block's last layer, cut out of the float graph and
then calibrated, quantized and compiled like the whole.
"""

from pathlib import Path

import numpy as np
import onnx

from mobilevd.device import calibrate, htp
from mobilevd.device.fidelity import sqnr_db
from mobilevd.device.noise import block
from mobilevd.device.quantize import quantize
from mobilevd.device.session import open_session
from mobilevd.device.targets import SNAPDRAGON
from mobilevd.errors import EffectError

WHOLE, FORMS = "the whole network", {"Sigmoid, Mul": "sigmoid.onnx", "h (1 + tanh h)": "float.onnx"}

Feeds = list[dict[str, np.ndarray]]


def compared(folder: Path, feeds: Feeds) -> dict:
    """dB of both forms to float, on ONNX Runtime's CPU and on the emulator; which longer beginnings did not run.

    Args:
        folder: holds the float graphs in both forms.
        feeds: all but the last calibrate.
    """
    torchs, ours = FORMS
    failed = {}
    for end in (WHOLE, *beginnings(folder / FORMS[torchs])):
        try:
            seen = {torchs: measured(folder, torchs, end, feeds)}
        except EffectError as error:
            failed[end] = str(error)
            continue
        return {"up to": end, "did not run": failed} | seen | {ours: measured(folder, ours, end, feeds)}
    raise EffectError("The emulator ran no beginning of the network", got="; ".join(failed), where=str(folder))


def beginnings(path: Path) -> list[str]:
    """The down blocks, the last one first."""
    graph = onnx.load(path, load_external_data=False).graph
    names = [block(node.name) for node in graph.node if "/" in node.name]
    return sorted({name for name in names if name.startswith("down_blocks.")}, reverse=True)


def measured(folder: Path, form: str, end: str, feeds: Feeds) -> dict[str, float]:
    """One form of one beginning. Errors: EffectError when the compiler or the emulated run fails."""
    place = folder / f"npu-{Path(FORMS[form]).stem}" / end.replace(" ", "-")
    source, target = place / "float.onnx", place / "quantized.onnx"
    taken = beginning(folder / FORMS[form], end, source)
    *calibration, checked = [{name: feed[name] for name in taken} for feed in feeds]
    quantize(source, target, calibrate.ranges(source, calibration), "uint16")
    report, [emulated] = htp.compile_and_run(target, SNAPDRAGON, place / "context.onnx", [checked])
    wanted, on_cpu = (open_session(path).run(None, checked)[0] for path in (source, target))
    told = {"cpu_db": sqnr_db(wanted, on_cpu), "npu_db": sqnr_db(wanted, emulated)}
    spent = {"compile_s": report.compile_s, "emulated_s": report.emulated_s}
    return {name: round(value, 1) for name, value in (told | spent).items()} | {"partitions": report.partitions}


def beginning(path: Path, end: str, target: Path) -> list[str]:
    """Write the nodes of the graph at ``path`` that its block ``end`` needs to ``target``; the inputs they read."""
    model = onnx.load(path)
    graph = model.graph
    last = [node for node in graph.node if end == WHOLE or ("/" in node.name and block(node.name) == end)][-1]
    made = {output: node for node in graph.node for output in node.output}
    needed, todo = set(), [last.output[0]]
    while todo:
        name = todo.pop()
        if name in made and name not in needed:
            needed.update(made[name].output)
            todo.extend(made[name].input)
    nodes = [node for node in graph.node if node.output[0] in needed]
    read = {name for node in nodes for name in node.input}
    inputs, stored = ([x for x in kept if x.name in read] for kept in (graph.input, graph.initializer))
    output = onnx.helper.make_tensor_value_info(last.output[0], onnx.TensorProto.FLOAT, None)
    cut = onnx.helper.make_graph(nodes, end, inputs, [output], stored)
    whole = onnx.helper.make_model(cut, opset_imports=model.opset_import, ir_version=model.ir_version)
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(onnx.shape_inference.infer_shapes(whole), target)
    return [x.name for x in inputs]
