import json

import pytest
import whole_bundle
from onnx import TensorProto, helper, save
from typer.testing import CliRunner

from mobilevd import cli
from mobilevd.errors import MobileVDError
from mobilevd.stages import estimates


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return whole_bundle.path(tmp_path_factory)


def test_the_command_prints_an_estimate_for_every_graph_of_a_bundle(bundle):
    done = CliRunner().invoke(cli.app, ["estimate", str(bundle), "--json"], catch_exceptions=False)
    rows = json.loads(done.stdout)
    assert [row["graph"] for row in rows] == [
        "quantized.onnx", "float.onnx", "decoder.onnx", "frame_encoder.onnx", "image_encoder.onnx",
    ]  # fmt: skip
    for row in rows:
        assert row["gmacs"] > 0
        assert row["beyond"] == []
        assert row["kind"] == "estimate"
        assert 0 < row["low_ms"] < row["ms"] < row["high_ms"]
        assert row["device"] == "Snapdragon 8 Gen 3"


def test_the_table_says_that_nothing_was_measured(bundle, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    done = CliRunner().invoke(cli.app, ["estimate", str(bundle / "onnx" / "float.onnx")], catch_exceptions=False)
    assert "nothing was measured" in done.stderr
    assert "float.onnx" in done.stdout
    assert "extrapolated" not in done.stdout


def large(path, rows=4096):
    """One product, with more multiply-adds than any network that was measured in float has."""
    side = 20_000
    border = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (rows, side)) for n in "xyz"]
    node = helper.make_node("MatMul", ["x", "t"], ["z"])
    graph = helper.make_graph([helper.make_node("Transpose", ["y"], ["t"]), node], "g", border[:2], [])
    graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, (rows, rows)))
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def test_an_estimate_beyond_what_was_measured_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    path = large(tmp_path / "g.onnx")
    words = ["estimate", str(path)]
    done = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    assert "g.onnx: extrapolated beyond the measured networks in multiply-adds\n" in done.stdout
    [row] = json.loads(CliRunner().invoke(cli.app, [*words, "--json"], catch_exceptions=False).stdout)
    assert row["beyond"] == ["gmacs"]


def test_a_graph_with_an_open_axis_is_refused(tmp_path):
    with pytest.raises(MobileVDError, match="cannot be counted"):
        estimates.rows(str(large(tmp_path / "g.onnx", "batch")), "compiled")


def test_a_model_without_graphs_is_refused(tmp_path):
    with pytest.raises(MobileVDError, match="There is no graph"):
        estimates.rows(str(tmp_path), "compiled")
