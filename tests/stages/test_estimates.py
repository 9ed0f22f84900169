import json

import pytest
import whole_bundle
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
    assert [row["graph"] for row in rows] == ["quantized.onnx", "float.onnx"]
    for row in rows:
        assert row["kind"] == "estimate"
        assert 0 < row["low_ms"] < row["ms"] < row["high_ms"]
        assert row["device"] == "Snapdragon 8 Gen 3"


def test_the_table_says_that_nothing_was_measured(bundle, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    done = CliRunner().invoke(cli.app, ["estimate", str(bundle / "onnx" / "float.onnx")], catch_exceptions=False)
    assert "nothing was measured" in done.stderr
    assert "float.onnx" in done.stdout


def test_a_model_without_graphs_is_refused(tmp_path):
    with pytest.raises(MobileVDError, match="There is no graph"):
        estimates.rows(str(tmp_path), "compiled")
