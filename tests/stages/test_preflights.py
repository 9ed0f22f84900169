import json
import shutil

import pytest
import whole_bundle
from onnx import TensorProto, helper, save
from typer.testing import CliRunner

from mobilevd import cli
from mobilevd.artifacts import seal
from mobilevd.errors import EffectError, MobileVDError
from mobilevd.stages import phone_bundle, preflights


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return whole_bundle.path(tmp_path_factory)


def of_rank_five(path):
    """One product, and nine sums of five axes."""
    border = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, 1, 1, 2, 2)) for n in ("x", "y9")]
    nodes = [helper.make_node("Add", [f"y{k}", "x"], [f"y{k + 1}"], name=f"sum.{k}") for k in range(9)]
    nodes.insert(0, helper.make_node("MatMul", ["x", "x"], ["y0"], name="product"))
    graph = helper.make_graph(nodes, "g", border[:1], border[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def run(*words):
    return CliRunner().invoke(cli.app, ["preflight", *map(str, words)], catch_exceptions=False)


def test_every_graph_of_a_bundle_is_held_against_the_device(bundle):
    done = run(bundle, "--json")
    rows = json.loads(done.stdout)
    assert done.exit_code == 0
    assert {row["graph"] for row in rows} == {
        "quantized.onnx", "float.onnx", "decoder.onnx", "frame_encoder.onnx", "image_encoder.onnx",
    }  # fmt: skip
    assert all(row["findings"] == [] and row["fallback_share"] == 0 and row["gflops"] > 0 for row in rows)


def test_a_graph_that_leaves_the_npu_ends_the_command_with_its_layers(tmp_path):
    done = run(of_rank_five(tmp_path / "g.onnx"))
    assert done.exit_code == 1
    told = done.stdout.splitlines()
    first = told.index("g.onnx: product: MatMul of rank 5, at most 4 there (100.0% of the FLOPs)")
    assert told[first + 1] == "g.onnx: sum.0: Add of rank 5, at most 4 there"
    assert told[-1] == "g.onnx: … and 2 more: --json"
    assert run(tmp_path / "g.onnx", "--device", "host-cpu").exit_code == 0


def test_what_is_no_graph_and_no_device_is_said(tmp_path):
    with pytest.raises(MobileVDError, match="There is no graph"):
        preflights.rows(str(tmp_path / "none.onnx"), "host-cpu")
    with pytest.raises(MobileVDError, match="Unknown device"):
        preflights.rows(str(tmp_path / "none.onnx"), "toaster")


def test_nothing_is_copied_or_compiled_for_a_phone_that_the_preflight_refuses(bundle, tmp_path, monkeypatch):
    refused = shutil.copytree(bundle, tmp_path / "refused")
    of_rank_five(refused / phone_bundle.NETWORK)
    seal(refused)
    monkeypatch.setattr(phone_bundle.htp, "check", lambda *_: pytest.fail("compiled"))
    with pytest.raises(EffectError, match="product: MatMul of rank 5"):
        phone_bundle.write(str(refused), tmp_path / "out", npu=True)
    assert not list(tmp_path.glob("out*"))
