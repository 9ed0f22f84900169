import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

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


def test_a_runtime_has_an_interval_of_its_own():
    wide = {}
    for runtime in estimate.RUNTIMES:
        made = estimate.latency(gmacs=1.0, params_m=10.0, layers=100, precision="w8a8", runtime=runtime)
        assert np.log([made.low_ms / made.ms, made.high_ms / made.ms]) == pytest.approx(estimate.LEFT_OUT[runtime])
        wide[runtime] = made.high_ms / made.low_ms
    assert wide["tflite"] > 10 * wide["compiled"]


@pytest.mark.parametrize("precision", estimate.PRECISIONS)
def test_what_is_beyond_the_fitted_networks_is_said_amount_by_amount(precision):
    gmacs, weights_mb, layers = estimate.LARGEST[precision]
    inside = {"gmacs": gmacs, "params_m": weights_mb / estimate.WEIGHT_BYTES[precision], "layers": int(layers)}
    made = estimate.latency(**inside, precision=precision)
    assert made.beyond == ()
    assert "extrapolated" not in str(made)
    for amount, given in {"gmacs": "gmacs", "weights_mb": "params_m", "layers": "layers"}.items():
        more = inside | {given: inside[given] + 1}
        assert estimate.latency(**more, precision=precision).beyond == (amount,)


def test_mobilevd_at_full_size_is_an_extrapolation():
    made = estimate.latency(gmacs=2168.0, params_m=980.3, layers=3300, precision="w8a16")
    assert made.beyond == ("gmacs", "weights_mb")
    assert "extrapolated beyond the measured networks in multiply-adds, weights; nothing was measured" in str(made)


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


def product(path, rows, domain=""):
    """y = x w, in QDQ form without zero points."""
    weights = [helper.make_tensor("w", TensorProto.FLOAT, (4, 8), [1.0] * 32)]
    weights.append(helper.make_tensor("s", TensorProto.FLOAT, [], [0.1]))
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"], domain=domain),
    ]
    border = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (rows, k)) for n, k in (("x", 4), ("y", 8))]
    graph = helper.make_graph(nodes, "g", border[:1], border[1:], weights)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("com.acme", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports), path)
    return path


def test_activations_without_a_zero_point_are_unsigned_and_of_eight_bits(tmp_path):
    assert estimate.amounts(product(tmp_path / "g.onnx", 2)) == estimate.Amounts(64e-9, 32e-6, 1, "w8a8")


@pytest.mark.parametrize(
    ("rows", "domain", "said"),
    [("batch", "", "x: shape not static; q: "), (None, "", "shape not static"), (2, "com.acme", "com.acme::MatMul")],
)
def test_a_graph_whose_work_cannot_be_counted_is_refused(tmp_path, rows, domain, said):
    path = product(tmp_path / "g.onnx", rows, domain)
    with pytest.raises(MobileVDError, match="cannot be counted") as refused:
        estimate.amounts(path)
    assert said in str(refused.value)
    assert str(path) in str(refused.value)


def test_the_interval_holds_nine_in_ten_families_whole_however_many_rows_each_has():
    """Twenty families: the outermost on either side is left out; one with a thousand rows counts once."""
    family = np.array([f"f{k}" for k in range(20)] + ["f0"] * 1000)
    errors = np.concatenate([np.arange(20.0), np.full(1000, 99.0)])
    assert fitter().interval(errors, family) == (1.0, 19.0)
    assert fitter().interval(errors[:19], family[:19]) == (0.0, 18.0)  # of nineteen a twentieth is none


@pytest.mark.skipif(not MEASURED.is_file(), reason="the measured rows are not at hand: the intervals are not redone")
def test_the_committed_intervals_and_bounds_are_those_of_the_measured_rows():
    fit = fitter()
    rows, log_ms, family = fit.read(MEASURED)
    errors = fit.left_out(rows, log_ms, family)
    for k, runtime in enumerate(estimate.RUNTIMES):
        chosen = rows.runtime == k
        low, high = fit.interval(errors[chosen], family[chosen])
        assert (low, high) == pytest.approx(estimate.LEFT_OUT[runtime], abs=2e-3)
        outside = np.unique(family[chosen & ((errors < low) | (errors > high))])
        assert len(outside) <= (1 - estimate.SHARE) * len(np.unique(family[chosen]))
    assert fit.largest(rows) == estimate.LARGEST
    for column, row in zip(zip(*estimate.LARGEST.values(), strict=True), estimate.AMOUNTS, strict=True):
        assert (getattr(rows, row) <= np.array(column)[rows.precision]).all()


@pytest.mark.skipif(not MEASURED.is_file(), reason="the measured rows are not at hand: the script is not run")
def test_the_script_prints_what_is_committed_and_which_networks_lie_outside(capsys):
    fitter().main(MEASURED)
    told = capsys.readouterr().out
    assert f"LARGEST = {estimate.LARGEST}" in told
    assert "  outside: video_mae, float: measured 355 ms, estimated 47" in told
    assert "22 of 24 lie whole between 0.69 and 2.56 times their estimates" in told
