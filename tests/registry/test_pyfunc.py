"""A registered bundle is an MLflow model that animates, described by signature and example, with nothing pickled."""

import json
import sys
from functools import partial

import candidates
import mlflow_store
import numpy as np
import pytest
import tiny_svd
import yaml

from mobilevd.artifacts import verify
from mobilevd.registry import versions
from mobilevd.stages import generate
from mobilevd.stages.generate import Wish

pytestmark = pytest.mark.slow
FRAMES, SIDE = 3, 64


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv(versions.LEDGER, raising=False)
        mlflow_store.use(tmp_path_factory.mktemp("store"), patched)
        yield versions.find(
            "mobilevd", candidates.offer(tmp_path_factory.mktemp("run"), partial(tiny_svd.write_bundle, frames=FRAMES))
        )


@pytest.fixture(scope="module")
def model(version):
    import mlflow

    return mlflow.pyfunc.load_model(f"models:/mobilevd/{version.number}")


def test_model_animates_its_own_example_as_the_bundle_does(model, version):
    photographs = model.input_example
    assert (photographs.dtype, photographs.shape) == (np.uint8, (1, 32, 32, 3))
    clips = model.predict(photographs, params={"seed": 3, "fps": 9.0, "motion": 5})
    assert (clips.dtype, clips.shape) == (np.uint8, (1, FRAMES, SIDE, SIDE, 3))
    animate = generate.animator(candidates.stored(version.number), "torch")
    assert np.array_equal(clips[0], animate(photographs[0], 3, Wish(9.0, 5))[0])
    assert np.array_equal(model.predict(photographs)[0], animate(photographs[0], 0, Wish(7.0, 127))[0])


def test_signature_says_what_goes_in_and_what_comes_out(model):
    told = model.metadata.signature
    assert [spec.shape for spec in told.inputs] == [(-1, -1, -1, 3)]
    assert [spec.shape for spec in told.outputs] == [(-1, FRAMES, SIDE, SIDE, 3)]
    assert {spec.name: spec.default for spec in told.params} == {"seed": 0, "fps": 7.0, "motion": 127}
    with pytest.raises(Exception, match="shape"):
        model.predict(np.zeros((1, 8, 8), np.uint8))


def test_loading_by_mlflow_leaves_the_bundle_as_it_was_sealed(model, version):
    folder = candidates.stored(version.number)
    verify(folder, version.tags["bundle_sha256"])
    assert (folder.parent / "registered_model_meta").is_file()  # what MLflow writes while loading, beside the bundle


def test_nothing_that_loading_reads_is_a_pickle(version):
    home = candidates.stored(version.number).parent
    endings = {path.suffix for path in home.rglob("*") if path.is_file()}
    assert endings <= {".safetensors", ".onnx", ".json", ".yaml", ".md", ".txt", ""}
    assert yaml.safe_load((home / "MLmodel").read_text())["flavors"] == {
        "python_function": {
            "data": "bundle",
            "loader_module": "mobilevd.stages.serve",
            "python_version": sys.version.split()[0],
        }
    }


def test_model_is_served_over_http_by_mlflow(model, version):
    """What ``mlflow models serve`` answers."""
    from fastapi.testclient import TestClient
    from mlflow.pyfunc import scoring_server

    example = json.loads((candidates.stored(version.number).parent / "serving_input_example.json").read_text())
    answer = TestClient(scoring_server.init(model)).post("/invocations", json=example | {"params": {"seed": 1}})
    assert answer.status_code == 200
    clips = np.array(answer.json()["predictions"])
    assert np.array_equal(clips, model.predict(model.input_example, params={"seed": 1}))
