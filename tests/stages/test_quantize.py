import numpy as np
import one_step
import pytest
import torch
from safetensors.torch import load_file, save_file

from mobilevd.artifacts import verify
from mobilevd.device import rows
from mobilevd.device.inputs import load
from mobilevd.device.runtime import OnnxOneStep
from mobilevd.errors import EffectError, IntegrityError
from mobilevd.stages import quantize
from mobilevd.stages.figures import of_stage
from mobilevd.stages.job import Job


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return one_step.records(one_step.recipe(), tmp_path_factory.mktemp("given"))


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("quantize")


@pytest.fixture(scope="module")
def record(given, work):
    (work / "onnx" / "export-1").mkdir(parents=True)  # as a killed export leaves it
    (work / "onnx" / "export-1" / "traced.onnx.data").write_text("weights")
    return quantize.run(one_step.recipe(), given, work)


def test_both_graphs_and_their_inputs_are_sealed_in_one_folder(record):
    folder = record.artifacts["onnx"].path
    verify(folder, record.artifacts["onnx"].sha256)
    assert sorted(p.name for p in folder.iterdir()) == ["float.onnx", "inputs.json", "manifest.json", "quantized.onnx"]
    assert load(folder) == one_step.SPEC


def test_the_declared_effects_were_measured(record):
    figures = record.figures
    assert figures.keys() == of_stage("quantize")
    assert figures["quantize.parity_db"] > 100
    assert 20 < figures["quantize.sqnr_db"] < 80
    assert 0 < figures["quantize.quantized_mb"] < 0.6 * figures["quantize.float_mb"]
    assert figures["quantize.calibration_clips"] == 3
    assert [row["clips"] for row in record.tables["calibration"]] == [2, 3]


def test_the_quantized_graph_is_as_far_from_torch_as_the_record_says(record, given):
    held = load_file(given["prepare"].artifacts["latents"].path / "validation.safetensors")
    count = len(held["latents"])
    noise = torch.randn(count, 5, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    ids = torch.tensor([[6.0, 127.0, 0.02]]).repeat(count, 1)
    condition = (noise, held["image_latents"].float(), held["tokens"].float(), ids)
    wanted = one_step.step()(*condition)
    got = OnnxOneStep(record.artifacts["onnx"].path / "quantized.onnx")(*condition)
    sqnr = 10 * torch.log10(wanted.square().sum() / (wanted - got).square().sum())
    assert float(sqnr) == pytest.approx(record.figures["quantize.sqnr_db"], abs=3)


def test_the_record_says_where_it_came_from_and_what_was_done(record, given, work):
    assert record.parents == {name: next(iter(given[name].artifacts.values())).sha256 for name in ("prepare", "funnel")}
    assert record.facts["precision"] == "int8 weights, uint16 activations, QDQ, opset 20"
    assert {row["kind"] for row in record.tables["operators"]} > {"Conv", "MatMul", "Gemm"}
    assert (work / record.pictures["sizes and noise"]).stat().st_size > 5_000


def test_calibration_sees_clips_in_no_order_of_theirs(given, tmp_path):
    job = Job("quantize", one_step.recipe(), given, tmp_path)
    path = tmp_path / "train.safetensors"
    level = torch.arange(32.0)[:, None, None, None]
    latents = torch.zeros(32, *one_step.SPEC.inputs[0].shape[-4:])
    save_file(
        {"latents": latents, "image_latents": level.expand(-1, 4, 8, 8).contiguous(), "tokens": torch.zeros(32, 1, 16)},
        path,
    )
    order = [float(feed[one_step.SPEC.names[1]].max()) for feed in quantize.feeds(job, one_step.SPEC, path, 8)]
    assert sorted(order) == [round(k * 31 / 7) for k in range(8)]
    assert order != sorted(order)
    assert order == [float(feed[one_step.SPEC.names[1]].max()) for feed in quantize.feeds(job, one_step.SPEC, path, 8)]


def test_calibration_sees_real_clips_at_pure_noise_with_the_recipes_ids(given, tmp_path):
    job = Job("quantize", one_step.recipe(), given, tmp_path)
    train, _ = job.clips()
    first, *others = quantize.feeds(job, one_step.SPEC, train, 3)
    stored, found = load_file(train), []
    for feed in (first, *others):
        [k] = [
            k
            for k, latents in enumerate(stored["image_latents"].float().numpy())
            if np.array_equal(feed["image_latents"][0], latents)
        ]
        assert np.array_equal(feed["token"][0], stored["tokens"][k].float().numpy())
        found.append(k)
    assert sorted(found)[::2] == [0, len(stored["tokens"]) - 1]
    assert first["ids"].tolist() == [[6.0, 127.0, pytest.approx(0.02)]]
    assert abs(first["noise"].std() - 1) < 0.1
    assert not np.array_equal(first["noise"], others[0]["noise"])
    again = quantize.feeds(job, one_step.SPEC, train, 3)
    assert all(np.array_equal(first[name], again[0][name]) for name in first)


def test_more_clips_than_there_are_is_all_of_them(given, tmp_path):
    job = Job("quantize", one_step.recipe(), given, tmp_path)
    assert len(quantize.feeds(job, one_step.SPEC, job.clips()[1], 100)) == 3


def again(record, given, target, **changes) -> quantize.Result:
    """The record's float graph quantized once more, as the changed recipe says."""
    recipe = one_step.recipe(**changes)
    job = Job("quantize", recipe, given, target.parent)
    checked = quantize.feeds(job, one_step.SPEC, job.clips()[1], 1)
    source = record.artifacts["onnx"].path / quantize.FLOAT
    return quantize.quantized(recipe.quantize, source, target, checked, checked)


@pytest.fixture(scope="module")
def wider(record, given, tmp_path_factory):
    """Quantized with 16 bits for the weights of many layers."""
    return again(record, given, tmp_path_factory.mktemp("wider") / "quantized.onnx", row_db=60.0)


def test_too_low_an_sqnr_fails_and_names_the_noisiest_blocks(wider):
    assert quantize._require(wider, wider.sqnr_db) is wider
    with pytest.raises(EffectError, match="too far from the float one") as error:
        quantize._require(wider, 150.0)
    assert f"noisiest blocks: {next(iter(wider.blocks))}" in str(error.value)
    assert "150 dB or more" in str(error.value)


def test_the_card_names_the_layers_whose_weights_got_16_bits(wider, record):
    assert wider.rows == rows.under(record.artifacts["onnx"].path / quantize.FLOAT, 60.0) != []
    first = wider.rows[0].layer.removeprefix("unet.").partition("/")[0]
    assert f"int8 weights (int16 in {first}" in quantize._facts(one_step.recipe(), wider, 1)["precision"]
    assert quantize._tables(wider)["weights in 16 bits"][0]["layer"] == first
    assert wider.sqnr_db > record.figures["quantize.sqnr_db"]


def test_qualcomms_quantizer_is_a_choice_of_the_recipe(record, given, tmp_path):
    pytest.importorskip("aimet_onnx", reason="Qualcomm's quantizer is built for Linux x86-64 alone")
    result = again(record, given, tmp_path / "quantized.onnx", quantizer="aimet")
    assert 20 < result.sqnr_db < 80
    assert result.blocks.keys() >= {"conv_in", "mid_block"}
    facts = quantize._facts(one_step.recipe(quantizer="aimet"), result, 1)
    assert facts["quantizer"] == "aimet, weights rounded by nearest"


def test_latents_that_changed_since_they_were_sealed_are_refused(given, tmp_path):
    path = given["prepare"].artifacts["latents"].path / "train.safetensors"
    kept = path.read_bytes()
    path.write_bytes(kept[:-1] + b"\x00")
    try:
        with pytest.raises(IntegrityError):
            quantize.run(one_step.recipe(), given, tmp_path)
    finally:
        path.write_bytes(kept)
