import importlib.util
from pathlib import Path

import numpy as np
import pytest

from mobilevd.device import estimate
from mobilevd.errors import MobileVDError

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ROOT / ".." / "shared" / "assets" / "perf" / "qai_hub_v0.46.1_snapdragon_8gen3.csv"


def fitter():
    spec = importlib.util.spec_from_file_location("latency_fit", ROOT / "benchmarks" / "latency_fit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_estimate_says_that_it_is_one_and_how_wide():
    made = estimate.latency(gmacs=402.0, params_m=860.0, layers=3272, precision="w8a16")
    assert made.low_ms < made.ms < made.high_ms
    assert str(made).startswith("estimate for Snapdragon 8 Gen 3")
    assert "nothing was measured" in str(made)


def test_stable_diffusions_unet_as_measured_lies_inside_its_interval():
    made = estimate.latency(gmacs=401.637, params_m=859.52, layers=3272, precision="w8a16")
    assert made.low_ms < 79.077 < made.high_ms  # AI Hub, Samsung Galaxy S24
    assert made.ms == pytest.approx(79.077, rel=0.15)


def test_more_work_more_weights_and_more_layers_take_longer():
    base = {"gmacs": 10.0, "params_m": 20.0, "layers": 100, "precision": "w8a8"}
    times = [
        estimate.latency(**(base | more)).ms for more in ({}, {"gmacs": 20.0}, {"params_m": 900.0}, {"layers": 400})
    ]
    assert all(longer > times[0] for longer in times[1:])
    assert estimate.latency(**(base | {"precision": "float"})).ms > times[0]


@pytest.mark.parametrize("wrong", [{"precision": "int4"}, {"runtime": "coreml"}])
def test_what_was_never_measured_is_not_estimated(wrong):
    with pytest.raises(MobileVDError, match="No latency is known"):
        estimate.latency(**({"gmacs": 1.0, "params_m": 1.0, "layers": 1, "precision": "float"} | wrong))


def test_the_fit_finds_the_coefficients_that_made_its_rows():
    rng = np.random.default_rng(0)
    made = [10 ** rng.uniform(-1, 3, 400), 10 ** rng.uniform(0, 3, 400), rng.integers(20, 3000, 400)]
    kinds = [rng.choice(estimate.PRECISIONS, 400), rng.choice(estimate.RUNTIMES, 400)]
    rows = estimate.features(*made, *kinds)
    log_ms = estimate.log_ms(np.array(estimate.COEFFICIENTS), rows)
    found = estimate.log_ms(fitter().fit(rows, log_ms), rows)
    assert np.abs(found - log_ms).max() < 0.05


def test_amounts_are_counted_in_the_graph_and_quantization_is_seen(graphs):
    plain, quantized = estimate.amounts(graphs.float_path), estimate.amounts(graphs.quantized_path)
    assert (plain.precision, quantized.precision) == ("float", "w8a16")
    assert plain.gmacs == pytest.approx(quantized.gmacs)
    assert plain.params_m == pytest.approx(quantized.params_m, rel=0.05)
    assert 100 < plain.layers <= 1.2 * quantized.layers
    with pytest.raises(MobileVDError, match="There is no graph"):
        estimate.amounts(graphs.float_path.with_name("none.onnx"))


@pytest.mark.skipif(not MEASURED.is_file(), reason="the measured rows are not at hand: the committed fit is not redone")
def test_the_committed_coefficients_are_the_fit_of_the_measured_rows():
    rows, log_ms, _ = fitter().read(MEASURED)
    assert fitter().fit(rows, log_ms) == pytest.approx(estimate.COEFFICIENTS, abs=2e-3)
