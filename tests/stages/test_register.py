"""What ships and how it is offered: a tiny but real bundle, assembled, run, written down, registered or not."""

import json
import math
import shutil
import subprocess
from pathlib import Path

import mlflow_store
import pytest
import tiny_svd
import torch
import whole_bundle
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from test_fingerprint import ONE

from mobilevd import artifacts
from mobilevd.artifacts import StageRecord, seal
from mobilevd.errors import EffectError, IntegrityError
from mobilevd.method import cross_attention, surgery
from mobilevd.params import check
from mobilevd.pipeline import MobileVDPipeline
from mobilevd.stages import bundle, gate, promote, register
from mobilevd.svd.base import Base
from mobilevd.svd.unet import VideoUNet

NETWORK = tiny_svd.UNET | {"num_frames": 3}
ADVERSARIAL = {"steps": 1, "generator": {"lr": 1.0e-3}, "discriminator": {"lr": 1.0e-3}}
FIGURES = {
    "finetune": {"tflops_before": 0.0721, "params_m_before": 10.11, "tflops": 0.0688, "params_m": 9.41},
    "distill": {"tflops": 0.0451, "params_m": 9.41},
    "prune": {"tflops": 0.0399, "params_m": 6.25, "blocks_before": 24.0, "blocks_after": 9.0},
    "funnel": {"tflops": 0.0376, "params_m": 6.03},
}
SCORES = {"student.fvd": 812.5, "teacher.fvd": 689.5, "student.motion_ratio": 0.8125, "teacher.evaluations": 49.0}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """An image-to-video base of random weights, in diffusers layout, with a card that names its licence."""
    whole_bundle.path(tmp_path_factory)  # its graphs are this base's too
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    surgery.save(VideoUNet(**NETWORK), [], folder)
    tiny_svd.vae(**whole_bundle.SMALL).save_pretrained(folder / "vae")
    tiny_svd.tower().save_pretrained(folder / "image_encoder")
    (folder / "image_encoder" / "pytorch_model.bin").write_bytes(b"a pickle that lies beside")
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\nRandom.\n")
    return folder


@pytest.fixture
def recipe(base):
    def make(limit: float = 900.0, **changes):
        sections = {
            "name": "tiny",
            "base": str(base),
            "clip": {"frames": whole_bundle.FRAMES, "width": 64, "height": 64},
            "finetune": {"steps": 1, "optim": {"lr": 1.0e-3}},
            "distill": {"adversarial": ADVERSARIAL},
            "prune": {"keep": 9, "adversarial": ADVERSARIAL},
            "funnel": {"adversarial": ADVERSARIAL},
            "gates": [{"metric": "student.fvd", "max": limit, "why": "good enough"}],
        }
        return check(sections | changes)

    return make


@pytest.fixture
def records(tmp_path, base):
    """``records(recipe)``: what the stages before leave, from prepare to the gate's own verdict."""

    def make(recipe, scores=SCORES, weights=lambda unet: unet) -> dict[str, StageRecord]:
        own = {"recipe_digest": recipe.digest, "data_md5": "d" * 32}
        clips = {"train_clips": 4.0, "validation_clips": 2.0}
        made = {"prepare": StageRecord(stage="prepare", figures=clips, **own)}
        for order, (stage, figures) in enumerate(FIGURES.items()):
            figures = {f"{stage}.{name}": value for name, value in figures.items()}
            times = {"started_at": 1_700_000_000.0 + order, "seconds": 1.0}
            made[stage] = StageRecord(stage=stage, figures=figures, **times, **own)
        unet = surgery.load(base)[0]
        surgery.save(weights(unet), [cross_attention.apply(unet)], tmp_path / "funnel" / "network")
        made["funnel"] = made["funnel"].model_copy(update={"artifacts": {"network": seal(tmp_path / "funnel/network")}})
        made["quantize"] = StageRecord(stage="quantize", artifacts={"onnx": _onnx(tmp_path)}, **own)
        table = [{"contender": name.split(".")[0], "fvd": value} for name, value in scores.items() if "fvd" in name]
        shown = {"artifacts": {"clips": _clips(tmp_path)}, "figures": scores, "tables": {"scores": table}}
        made["evaluate"] = StageRecord(stage="evaluate", **shown, **own)
        return made | {"gate": gate.run(recipe, made, tmp_path / "gate")}

    return make


def _onnx(folder: Path):
    (folder / "quantize" / "onnx").mkdir(parents=True)
    (folder / "quantize" / "onnx" / "quantized.onnx").write_bytes(b"graph")
    return seal(folder / "quantize" / "onnx")


def _clips(folder: Path):
    (folder / "evaluate" / "clips").mkdir(parents=True)
    frames = [Image.new("RGB", (32, 8), (shade, 0, 0)) for shade in (0, 200)]
    frames[0].save(folder / "evaluate" / "clips" / "00.webp", save_all=True, append_images=frames[1:], duration=143)
    return seal(folder / "evaluate" / "clips")


@pytest.fixture
def store(tmp_path, monkeypatch):
    return mlflow_store.use(tmp_path / "store", monkeypatch)


def test_a_passed_run_is_registered_with_its_lineage(store, recipe, records, tmp_path):
    accepted = recipe()
    inputs = records(accepted)
    record = register.run(accepted, inputs, tmp_path / "register")
    shipped = record.artifacts["bundle"]
    assert (record.facts["verdict"], record.facts["version"], record.facts["model"]) == ("passed", "1", "mobilevd")
    version = store.get_model_version("mobilevd", "1")
    artifacts.verify(Path(version.source.removeprefix("file://")) / "bundle", shipped.sha256)
    assert version.tags["parent.funnel.network"] == inputs["funnel"].artifacts["network"].sha256
    assert version.tags["data_md5"] == "d" * 32
    assert version.tags["git_commit"] == bundle.git_commit()
    assert record.parents["funnel"] == inputs["funnel"].artifacts["network"].sha256
    pages = {item.path for item in store.list_artifacts(record.facts["run_id"], "pages")}
    assert pages == {"pages/gallery.html", "pages/gates"}
    page = register.page(record.model_dump(mode="json"))
    assert page == Path(record.facts["page"]).read_text()
    assert "student.fvd" in page
    assert "data:image/webp;base64," in page


def test_page_says_when_its_scores_are_of_few_clips(recipe, records):
    inputs = records(recipe())
    assert "are few" not in register._gallery(recipe(), inputs)
    told = inputs["evaluate"].model_copy(update={"facts": ONE.facts()})
    assert f"{ONE.clips} clips are few" in register._gallery(recipe(), inputs | {"evaluate": told})


def test_a_registered_run_can_be_promoted(store, recipe, records, tmp_path):
    accepted = recipe()
    record = register.run(accepted, records(accepted), tmp_path / "register")
    entry = promote.run("mobilevd", promote.candidate("mobilevd", None, ""))
    assert (entry.to_version, entry.bundle_sha256) == ("1", record.artifacts["bundle"].sha256)
    assert str(store.get_model_version_by_alias("mobilevd", "champion").version) == "1"


def test_a_rejected_run_has_a_bundle_and_no_version(store, recipe, records, tmp_path):
    strict = recipe(limit=1.0)
    record = register.run(strict, records(strict), tmp_path / "register")
    assert (record.facts["verdict"], record.facts["version"]) == ("rejected", "none")
    assert list(store.search_registered_models()) == []
    tags = store.get_run(record.facts["run_id"]).data.tags
    assert (tags["verdict"], tags["bundle"]) == ("rejected", record.facts["bundle"])
    artifacts.verify(Path(record.facts["bundle"]), record.artifacts["bundle"].sha256)


def test_a_rejected_run_whose_figure_is_nan_is_written_down_too(store, recipe, records, tmp_path):
    plain = recipe()
    record = register.run(plain, records(plain, SCORES | {"student.fvd": math.nan}), tmp_path / "register")
    assert record.facts["version"] == "none"
    card = (record.artifacts["bundle"].path / "README.md").read_text()
    assert "not measured" in card
    assert "nan" not in card.lower().replace("is nan:", "")


def test_the_bundle_holds_what_ships_and_nothing_that_runs_code(recipe, records, base, tmp_path):
    plain = recipe()
    shipped = bundle.assemble(plain, records(plain), tmp_path / "bundle").path
    files = {path.relative_to(shipped).as_posix() for path in shipped.rglob("*") if path.is_file()}
    assert files == {
        *("README.md", "gates.json", "lineage.json", "manifest.json", "pipeline.json", "recipe.yaml"),
        *("unet/config.json", "unet/diffusion_pytorch_model.safetensors", "unet/surgery.json", "unet/tensors.json"),
        "onnx/quantized.onnx",
        *("ends/frame_encoder.onnx", "ends/image_encoder.onnx", "ends/decoder.onnx"),
        *("vae/config.json", "vae/diffusion_pytorch_model.safetensors"),
        *("image_encoder/config.json", "image_encoder/model.safetensors"),
    }
    settings = json.loads((shipped / "pipeline.json").read_text())
    assert settings["clip"] == {"frames": whole_bundle.FRAMES, "fps": 7.0, "width": 64, "height": 64}
    assert (settings["motion_bucket"], settings["augmentation_sigma"], settings["start_sigma"]) == (127, 0.02, 700.0)
    assert check(yaml.safe_load((shipped / "recipe.yaml").read_text())) == plain
    assert Base(shipped).encoder_digest  # every part is where a base has it


def test_the_bundle_animates_as_its_parts_do(recipe, records, tmp_path):
    plain = recipe()
    inputs = records(plain)
    shipped = bundle.assemble(plain, inputs, tmp_path / "bundle")
    assert register.smoke(shipped.path, plain.clip) > 0
    pipeline = MobileVDPipeline.from_pretrained(shipped.path)
    expected = load_file(inputs["funnel"].artifacts["network"].path / surgery.WEIGHTS)
    assert all(torch.equal(expected[name], tensor) for name, tensor in pipeline.step.unet.state_dict().items())


def test_a_network_that_gives_nan_is_neither_logged_nor_registered(store, recipe, records, tmp_path):
    def broken(unet):
        unet.conv_out.bias.data.fill_(math.nan)
        return unet

    plain = recipe()
    with pytest.raises(EffectError, match="does not animate"):
        register.run(plain, records(plain, weights=broken), tmp_path / "register")
    assert store.get_experiment_by_name("mobilevd") is None
    assert list(store.search_registered_models()) == []


def test_lineage_names_everything_by_digest(recipe, records, base, tmp_path):
    plain = recipe()
    inputs = records(plain)
    inputs["distill"] = inputs["distill"].model_copy(update={"facts": {"threads": "2", "edits": "none"}})
    told = json.loads((bundle.assemble(plain, inputs, tmp_path / "bundle").path / "lineage.json").read_text())
    threads = {name: stage["threads"] for name, stage in told["stages"].items() if "threads" in stage}
    assert threads == {"distill": "2"}
    assert "edits" not in told["stages"]["distill"]
    assert told["recipe"] == {"name": "tiny", "sha256": plain.digest}
    assert told["base"] == {"name": str(base), "sha256": Base(base).digest}
    assert told["stages"]["gate"]["parents"]["funnel.network"] == told["stages"]["funnel"]["artifacts"]["network"]
    assert list(told["stages"]) == sorted(inputs)
    assert (
        told["versions"]["torch"] == torch.__version__.split("+")[0] or told["versions"]["torch"] == torch.__version__
    )


def test_the_card_tells_every_gate_score_and_cost(recipe, records, tmp_path):
    plain = recipe()
    card = (bundle.assemble(plain, records(plain), tmp_path / "bundle").path / "README.md").read_text()
    numbers = ("812.5", "689.5", "0.8125", "0.0721", "0.0376", "| 24 |", "| 9 |")
    for expected in (*numbers, "**passed**", "cc-by-4.0", "with 49 evaluations"):
        assert expected in card, expected
    assert "d" * 32 in card


def test_a_passed_bundle_with_an_unmeasured_figure_on_its_card_is_refused(recipe, records, tmp_path):
    plain = recipe()
    with pytest.raises(IntegrityError, match="nobody measured"):
        bundle.assemble(plain, records(plain, SCORES | {"teacher.fvd": math.inf}), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_changed_network_is_refused_by_name(recipe, records, tmp_path):
    plain = recipe()
    inputs = records(plain)
    weights = inputs["funnel"].artifacts["network"].path / surgery.WEIGHTS
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(IntegrityError, match=r"unet/diffusion_pytorch_model\.safetensors"):
        bundle.assemble(plain, inputs, tmp_path / "bundle")


def test_a_network_that_the_gate_did_not_judge_is_refused(recipe, records, tmp_path):
    plain = recipe()
    inputs = records(plain)
    shutil.copytree(inputs["funnel"].artifacts["network"].path, tmp_path / "other")
    (tmp_path / "other" / "unet" / "note.json").write_text("{}")
    other = inputs["funnel"].model_copy(update={"artifacts": {"network": seal(tmp_path / "other")}})
    with pytest.raises(IntegrityError, match="The gate judged another artifact"):
        bundle.assemble(plain, inputs | {"funnel": other}, tmp_path / "bundle")


def test_a_record_of_another_recipe_is_refused(recipe, records, tmp_path):
    with pytest.raises(IntegrityError, match="from another run"):
        bundle.assemble(recipe(seed=1), records(recipe()), tmp_path / "bundle")


def test_a_pickle_among_the_weights_is_refused(recipe, records, tmp_path):
    plain = recipe()
    inputs = records(plain)
    (tmp_path / "quantize" / "onnx" / "weights.pkl").write_bytes(b"code")
    inputs["quantize"] = inputs["quantize"].model_copy(update={"artifacts": {"onnx": seal(tmp_path / "quantize/onnx")}})
    inputs["gate"] = gate.run(plain, {name: r for name, r in inputs.items() if name != "gate"}, tmp_path / "gate")
    with pytest.raises(IntegrityError, match=r"onnx/weights\.pkl"):
        bundle.assemble(plain, inputs, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_an_older_bundle_is_replaced_whole(recipe, records, tmp_path):
    plain = recipe()
    inputs = records(plain)
    first = bundle.assemble(plain, inputs, tmp_path / "bundle")
    (first.path / "stale.json").write_text("{}")
    second = bundle.assemble(plain, inputs, tmp_path / "bundle")
    artifacts.verify(second.path, first.sha256)
    assert not (tmp_path / "bundle.part").exists()


def test_no_password_of_the_recipe_is_written_anywhere(store, recipe, records, tmp_path):
    secret = recipe(prepare={"data": "https://me:hunter2@host/videos"})
    made = tmp_path / "register"
    register.run(secret, records(secret), made)
    written = [path for folder in (made, tmp_path / "store") for path in folder.rglob("*") if path.is_file()]
    everything = b"".join(path.read_bytes() for path in written)
    assert b"https://host/videos" in everything
    assert b"hunter2" not in everything


def test_the_commit_is_told_only_of_a_checkout_that_holds_the_code(tmp_path, monkeypatch):
    def git(*words: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(bundle.mobilevd, "__file__", str(package / "__init__.py"))
    assert bundle.git_commit() == "unknown"
    git("init")
    (tmp_path / "else.txt").write_text("")
    git("add", "else.txt")
    git("commit", "-m", "one")
    assert bundle.git_commit() == "unknown"  # the code is installed inside a stranger's checkout
    git("add", ".")
    git("commit", "-m", "two")
    assert bundle.git_commit() == git("rev-parse", "HEAD")
    (package / "__init__.py").write_text("changed = True")
    assert bundle.git_commit() == git("rev-parse", "HEAD") + "+dirty"
