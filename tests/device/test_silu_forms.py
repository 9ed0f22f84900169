"""Parts of a network, as benchmarks/silu_forms.py and npu_blocks.py cut them out, compute what the whole does there."""

import importlib.util
from pathlib import Path

import numpy as np
import one_step
import onnx
import onnxruntime as ort
import pytest


def benchmark(name):
    path = Path(__file__).resolve().parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def forms():
    return benchmark("silu_forms")


def test_a_beginning_computes_what_the_whole_does_there_and_reads_no_more_than_it_needs(forms, graphs, tmp_path):
    assert forms.beginnings(graphs.float_path)[-1] == "down_blocks.0"
    taken = forms.beginning(graphs.float_path, "down_blocks.0", tmp_path / "part.onnx")
    part, whole = (onnx.load(path) for path in (tmp_path / "part.onnx", graphs.float_path))
    onnx.checker.check_model(part, full_check=True)
    assert 0 < len(part.graph.node) < len(whole.graph.node)
    name = part.graph.output[0].name
    assert not any("up_blocks" in node.name for node in part.graph.node)
    whole.graph.output.extend(part.graph.output)
    [feed] = one_step.feeds(1, first_seed=9)
    wanted = ort.InferenceSession(whole.SerializeToString()).run([name], feed)[0]
    got = ort.InferenceSession(part.SerializeToString()).run(None, {key: feed[key] for key in taken})[0]
    np.testing.assert_array_equal(got, wanted)


def test_the_whole_keeps_every_node_and_the_output(forms, graphs, tmp_path):
    forms.beginning(graphs.float_path, forms.WHOLE, tmp_path / "whole.onnx")
    part, whole = (onnx.load(path).graph for path in (tmp_path / "whole.onnx", graphs.float_path))
    assert [node.name for node in part.node] == [node.name for node in whole.node]
    assert [output.name for output in part.output] == [output.name for output in whole.output]


def test_the_longest_beginning_that_runs_is_shown_and_what_did_not_run_is_told(forms, graphs, monkeypatch):
    def measured(_, form, end, __):
        if end != "down_blocks.0" and form == "Sigmoid, Mul":
            raise forms.EffectError("The emulated run failed", got="signal 11")
        return {"npu_db": 1.0 if form == "Sigmoid, Mul" else 40.0}

    monkeypatch.setattr(forms, "measured", measured)
    monkeypatch.setitem(forms.FORMS, "Sigmoid, Mul", graphs.float_path.name)
    told = forms.compared(graphs.float_path.parent, [])
    assert told["up to"] == "down_blocks.0"
    assert next(iter(told["did not run"])) == forms.WHOLE
    assert "signal 11" in told["did not run"][forms.WHOLE]
    assert (told["Sigmoid, Mul"]["npu_db"], told["h (1 + tanh h)"]["npu_db"]) == (1.0, 40.0)


def test_a_block_computes_from_its_borders_what_the_whole_does_there(graphs, tmp_path):
    npu_blocks, [feed] = benchmark("npu_blocks"), one_step.feeds(1, first_seed=9)
    flops = list(npu_blocks.blocks(graphs.quantized_path).values())
    assert flops == sorted(flops)
    npu_blocks.cut(graphs.quantized_path, "mid_block", tmp_path / "part.onnx")
    part, whole = (onnx.load(path) for path in (tmp_path / "part.onnx", graphs.quantized_path))
    layers = {node.name.partition("/")[0] for node in part.graph.node if node.op_type == "Conv"}
    assert {npu_blocks.block(layer) for layer in layers} == {"mid_block"}
    whole.graph.output.extend(end for end in (*part.graph.input, *part.graph.output) if end.name not in feed)
    outputs = ort.InferenceSession(whole.SerializeToString()).run(None, feed)
    values = feed | dict(zip([output.name for output in whole.graph.output], outputs, strict=True))
    given = {x.name: values[x.name] for x in part.graph.input}
    [got] = ort.InferenceSession(part.SerializeToString()).run(None, given)
    np.testing.assert_allclose(got, values[part.graph.output[0].name], atol=1e-3)
