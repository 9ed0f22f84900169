"""One student under several quantizers, on the clips and seeds of its own run."""

import json
import shutil
from types import SimpleNamespace

import one_step
import one_step_graphs
import pytest
import tiny_svd
import torch
import yaml
from movies import texture
from safetensors.torch import save_file
from typer.testing import CliRunner

from mobilevd import cli, params
from mobilevd.artifacts import StageRecord, seal, verify, write_json
from mobilevd.device import calibrate, noise
from mobilevd.errors import EffectError, IntegrityError, MobileVDError
from mobilevd.stages import contenders, lineage, quantizers
from mobilevd.stages.extractor import Extractor
from mobilevd.stages.sampling import decoded
from mobilevd.svd import base as bases
from mobilevd.svd.scheduler import Schedule
from mobilevd.video import pinned

FRAMES, SIDE, CLIPS, SEED = 5, 64, 4, 3
WAYS = {name: way for name, way in quantizers.WAYS.items() if way["quantizer"] == "onnxruntime"}


def features(video):
    """Mean colours of a clip's first frame, of what moves after it, and of its parts: [1 D]."""
    x = video[0].float() / 255
    parts = torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten()
    return torch.cat([parts, (x[1:] - x[:-1]).abs().mean((2, 3)).flatten()])[None].double()


def prepared(recipe, home) -> StageRecord:
    base = bases.load(recipe.base)
    own = {"recipe_digest": recipe.digest, "data_md5": pinned.md5(recipe.prepare)}
    for folder in ("clips", "latents"):
        (home / folder).mkdir(parents=True)
    for side, first in (("train", 0), ("validation", CLIPS)):
        stills = [torch.tensor(texture(first + k, SIDE, SIDE)).permute(2, 0, 1) for k in range(CLIPS)]
        videos = [torch.stack([still.roll(3 * f, 2) for f in range(FRAMES)]) for still in stills]
        encoded = [base.encode(video) for video in videos]
        save_file({"video": torch.stack(videos)}, home / f"clips/{side}.safetensors")
        tensors = {name: torch.stack([one[name] for one in encoded]).contiguous() for name in encoded[0]}
        save_file(tensors, home / f"latents/{side}.safetensors")
    return StageRecord(stage="prepare", artifacts={n: seal(home / n) for n in ("clips", "latents")}, **own)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A bundle as far as the comparison reads it, its recipe, and what its run prepared."""
    home = tmp_path_factory.mktemp("model")
    told = one_step.recipe(calibration_clips=2, activations="mixed", budget_db=5.0).model_dump(mode="json")
    told |= {"base": str(tiny_svd.write_base(home / "base", frames=FRAMES)), "seed": SEED}
    told |= {"clip": {"frames": FRAMES, "width": SIDE, "height": SIDE}}
    recipe, graphs, bundle = params.check(told), one_step_graphs.copy(tmp_path_factory), home / "bundle"
    (bundle / "onnx").mkdir(parents=True)
    for path in (graphs.float_path, graphs.float_path.with_name("inputs.json")):
        shutil.copyfile(path, bundle / "onnx" / path.name)
    write_json(bundle / "pipeline.json", {"clip": told["clip"]})
    made_of = {"data_md5": pinned.md5(recipe.prepare), "base": {"sha256": bases.load(recipe.base).digest}}
    write_json(bundle / lineage.LINEAGE, made_of)
    (bundle / lineage.RECIPE).write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    seal(bundle)
    return bundle, recipe, prepared(recipe, home / "prepare")


def looking_at(function, bundle):
    """``function``, called only while the bundle is what it was sealed as."""

    def called(*args, **more):
        verify(bundle)
        return function(*args, **more)

    return called


@pytest.fixture(scope="module")
def compared(model, tmp_path_factory):
    """Rows that the command printed, and the folder that it made; the model is whole whenever a graph is opened."""
    bundle, _, record = model
    out = tmp_path_factory.mktemp("compared") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantizers.prepare, "run", lambda *_: record)
        patch.setattr(quantizers.extractor, "of_i3d", lambda: Extractor("", "", features))
        patch.setattr(quantizers, "WAYS", WAYS)
        patch.setattr(calibrate, "_open", looking_at(calibrate._open, bundle))
        patch.setattr(noise, "open_session", looking_at(noise.open_session, bundle))
        done = CliRunner().invoke(cli.app, ["quantizers", str(bundle), str(out), "--json"], catch_exceptions=False)
    return {row["way"]: row for row in json.loads(done.stdout)}, out


def test_every_quantizer_has_its_noise_size_and_distances_beside_floats(compared):
    rows, out = compared
    plain, wide, narrow = rows.values()
    assert list(rows) == ["float", *WAYS]
    assert (plain["sqnr_db"], plain["fvd_minus_float"]) == (None, 0.0)
    assert plain["fvd_to_float"] == pytest.approx(0.0, abs=1e-6)
    assert 8 < narrow["sqnr_db"] < wide["sqnr_db"]
    assert 0 < wide["mb"] < 0.6 * plain["mb"]
    assert 0 < wide["fvd_to_float"] < narrow["fvd_to_float"]
    for row in (wide, narrow):
        assert row["fvd_minus_float"] == pytest.approx(row["fvd"] - plain["fvd"])
        assert row["fvd_minus_float_low"] < row["fvd_minus_float"] < row["fvd_minus_float_high"]
        noise = [layer["sqnr_db"] for layer in row["noisiest_layers"]]
        assert noise == sorted(noise)
        assert noise[0] == min(row["blocks"].values())
    assert json.loads((out / "report.json").read_text())["rows"] == list(rows.values())
    assert sorted(path.name for path in out.iterdir()) == ["onnxruntime-w8a16", "onnxruntime-w8a8", "report.json"]


def test_the_noisiest_layers_stand_below_the_table(compared):
    rows = list(compared[0].values())
    worst = rows[1]["noisiest_layers"]
    told = [f"{rows[1]['way']}: {one['layer']} {one['sqnr_db']:.1f} dB" for one in worst[:2]]
    assert quantizers.lines(rows)[:2] == told
    mixed = rows[2] | {"way": "mixed", "wide_blocks": ["conv_in", "up_blocks.3"]}
    assert quantizers.lines([rows[0], mixed])[-1] == "mixed: 16 bits in conv_in, up_blocks.3"
    assert len(quantizers.lines(rows)) == 2 * len(WAYS)
    assert [row["SQNR, dB"] for row in quantizers.shown(rows)] == [row["sqnr_db"] for row in rows]


def test_samples_are_those_that_the_runs_own_evaluation_would_take(compared, model, tmp_path):
    rows, out = compared
    _, recipe, record = model
    shutil.copytree(out / "onnxruntime-w8a16", tmp_path / "onnx")
    (tmp_path / "onnx" / "q.onnx").rename(tmp_path / "onnx" / "quantized.onnx")
    shared = {"recipe_digest": recipe.digest, "data_md5": record.data_md5}
    inputs = {"quantize": StageRecord(stage="quantize", artifacts={"onnx": seal(tmp_path / "onnx")}, **shared)}
    held, base = contenders.held_out(recipe, record), bases.load(recipe.base)
    inputs |= dict.fromkeys(("finetune", "distill", "prune", "funnel"), inputs["quantize"])
    make = contenders.makers(recipe, Schedule(), inputs, held)["quantized"]()
    made = torch.cat([features(decoded(base, make(k))) for k in range(len(held))])
    real = torch.cat([features(video[None]) for video in held.video])
    assert rows["onnxruntime W8A16"]["fvd"] == pytest.approx(quantizers.fvd.frechet(real, made), rel=1e-6)


@pytest.mark.parametrize(
    ("what", "module", "name", "value"),
    [
        ("data", quantizers.pinned, "md5", lambda _: "e" * 32),
        ("base", quantizers.bases, "load", lambda _: SimpleNamespace(digest="")),
    ],
    ids=["data", "base"],
)
def test_what_is_not_the_models_is_refused_before_a_clip_is_read(
    model, tmp_path, monkeypatch, what, module, name, value
):
    monkeypatch.setattr(quantizers.prepare, "run", lambda *_: pytest.fail("clips were prepared"))
    monkeypatch.setattr(module, name, value)
    with pytest.raises(IntegrityError, match=f"{what} here is not the model's"):
        quantizers.compare(str(model[0]), tmp_path / "out", WAYS, features)


def test_a_way_that_fails_is_a_row_and_costs_none_of_the_others(model, tmp_path, monkeypatch):
    bundle, _, record = model
    quantized = quantizers.quantize.quantized

    def some(settings, *given):
        if settings.activations == "mixed":
            raise EffectError("The limit of noise is not met", got="33.1 dB", allowed="300 dB or more")
        return quantized(settings, *given)

    monkeypatch.setattr(quantizers.prepare, "run", lambda *_: record)
    monkeypatch.setattr(quantizers.quantize, "quantized", some)
    ways = quantizers.ways(budget_db=300.0, only=["mixed"]) | {"onnxruntime W8A8": WAYS["onnxruntime W8A8"]}
    ways = {"too much": ways.pop("onnxruntime mixed, 300 dB")} | ways
    rows = quantizers.compare(str(bundle), tmp_path / "out", ways, features)
    assert [row["way"] for row in rows if "fvd" in row] == ["float", "onnxruntime W8A8"]
    assert "300" in rows[1]["error"]
    assert quantizers.lines(rows)[-1] == f"too much: {rows[1]['error']}"
    assert quantizers.shown(rows)[1] == {
        "quantizer": "too much", "SQNR, dB": None, "MB": None, "FVD": None, "to float": None, "less float's": "failed",
        "CPU s": None,
    }  # fmt: skip


def test_a_folder_that_is_there_is_left_alone(model, tmp_path):
    with pytest.raises(MobileVDError, match="there already"):
        quantizers.compare(str(model[0]), tmp_path, WAYS, features)


def test_aimets_rounding_and_mixed_precision_are_further_ways():
    assert len(quantizers.ways()) == 4
    more = quantizers.ways("adaround", 7, 30.0)
    assert more["aimet W8A8, adaround"] == WAYS["onnxruntime W8A8"] | {
        "quantizer": "aimet", "rounding": "adaround", "iterations": 7,
    }  # fmt: skip
    assert more["onnxruntime mixed, 30 dB"]["budget_db"] == 30.0


def test_only_the_ways_with_a_word_in_their_name_and_an_unknown_word_is_refused_with_all_names():
    assert list(quantizers.ways("seq_mse", only=["seq_mse", "onnxruntime W8A8"])) == [
        "onnxruntime W8A8", "aimet W8A16, seq_mse", "aimet W8A8, seq_mse",
    ]  # fmt: skip
    with pytest.raises(MobileVDError, match="No quantizer is called so") as error:
        quantizers.ways(only=["mixed"])
    assert error.value.allowed == "; ".join(WAYS | quantizers.WAYS)
