import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_taesd
import whole_bundle
from movies import texture
from PIL import Image, ImageSequence
from typer.testing import CliRunner

from mobilevd import cli
from mobilevd.artifacts import verify
from mobilevd.device.animate import OnnxPipeline
from mobilevd.errors import IntegrityError, MobileVDError
from mobilevd.stages import estimates, phone_bundle

ALONE = """
import runpy, sys
for name in ("torch", "mobilevd", "jaxtyping", "onnx", "diffusers"):
    sys.modules[name] = None
sys.path.insert(0, sys.argv[1])
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return whole_bundle.path(tmp_path_factory)


@pytest.fixture(scope="module")
def made(bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("phone") / "bundle"
    words = ["phone-bundle", str(bundle), str(folder), "--json"]
    done = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    return folder, json.loads(done.stdout)


def film(folder, photo, out):
    words = [sys.executable, "-c", ALONE, folder, folder / "animate.py", photo, out, "3"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, env=environment)


def test_the_example_makes_the_pipelines_film_without_this_package(made, bundle, tmp_path):
    folder, _ = made
    picture, opaque = texture(3, 90, 70).copy(), np.full((90, 70, 1), 255, np.uint8)
    opaque[:20] = 0
    Image.fromarray(np.concatenate([picture, opaque], axis=2)).save(tmp_path / "photo.png")
    picture[:20] = 255
    done = film(folder, tmp_path / "photo.png", tmp_path / "film.webp")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "film.webp") as shown:
        frames = np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(shown)])
    expected = OnnxPipeline.from_pretrained(bundle)(picture, seed=3).frames
    assert frames.shape == expected.shape
    assert np.abs(frames.astype(int) - expected).max() <= 2
    assert (frames == expected).mean() > 0.95


def test_every_file_is_listed_with_its_digest_and_its_size_is_told(made):
    folder, rows = made
    verify(folder)
    assert {row["file"] for row in rows} >= {"animate.py", "onnx/quantized.onnx", "ends/decoder.onnx", "pipeline.json"}
    told = (folder / "README.md").read_text(encoding="utf-8")
    size = (folder / "onnx" / "quantized.onnx").stat().st_size / 1e6
    assert f"| onnx/quantized.onnx | {size:.2f} |" in told


@pytest.mark.parametrize(
    ("photo", "out", "said"),
    [
        ("none.png", "film.webp", "photograph cannot be read: [Errno 2] No such file"),
        (__file__, "film.webp", "photograph cannot be read: cannot identify image file"),
        ("none.png", "film.mp4", "must end in .webp or .gif, got film.mp4"),
    ],
)
def test_the_example_says_in_a_line_what_it_cannot_use(made, photo, out, said):
    done = film(made[0], photo, out)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]


def test_the_example_refuses_a_file_that_changed(bundle, tmp_path):
    phone_bundle.write(str(bundle), tmp_path / "bundle")
    (tmp_path / "bundle" / "pipeline.json").write_text("{}")
    done = film(tmp_path / "bundle", "photo.png", "film.webp")
    assert done.returncode == 1
    assert "pipeline.json is not the file that was bundled" in done.stderr
    (tmp_path / "bundle" / "pipeline.json").unlink()
    assert "pipeline.json is missing" in film(tmp_path / "bundle", "photo.png", "film.webp").stderr


def test_a_folder_that_is_there_is_left_alone(made, bundle):
    with pytest.raises(MobileVDError, match="there already"):
        phone_bundle.write(str(bundle), made[0])


def test_taesd_decodes_instead_and_foreign_latents_are_refused(bundle, tmp_path, monkeypatch):
    phone_bundle.write(str(bundle), tmp_path / "tiny", tiny_decoder=tiny_taesd.written(tmp_path))
    frames = OnnxPipeline.from_pretrained(tmp_path / "tiny")(texture(3, 64, 64)).frames
    assert frames.shape == (whole_bundle.FRAMES, 64, 64, 3)
    assert (tmp_path / "tiny" / "ends" / "decoder.onnx").stat().st_size > 4.8e6  # 1.2 M parameters
    monkeypatch.setattr("mobilevd.svd.taesd.SCALING_FACTOR", 0.5)
    with pytest.raises(MobileVDError, match="does not decode"):
        phone_bundle.write(str(bundle), tmp_path / "foreign", tiny_decoder=tiny_taesd.written(tmp_path))


def test_weights_that_are_not_there_are_known_before_anything_is_copied(bundle, tmp_path):
    with pytest.raises(IntegrityError):
        phone_bundle.write(str(bundle), tmp_path / "out", tiny_decoder=tmp_path / "none.safetensors")
    assert not list(tmp_path.glob("out*"))


def test_a_phones_bundle_has_estimates_but_no_float_graph_to_hold_an_npu_against(made, tmp_path):
    folder, _ = made
    ends = {Path(name).name for name in phone_bundle.GRAPHS[1:]}
    graphs = [row["graph"] for row in estimates.rows(str(folder), "compiled")]
    assert graphs[0] == "quantized.onnx"
    assert set(graphs[1:]) == ends
    with pytest.raises(IntegrityError, match="no such file") as error:
        phone_bundle.write(str(folder), tmp_path / "again", npu=True)
    assert "onnx/float.onnx" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_an_effort_without_an_npu_is_refused(bundle, tmp_path):
    with pytest.raises(MobileVDError, match="nothing to compile"):
        phone_bundle.write(str(bundle), tmp_path / "bundle", effort="long")
    assert list(tmp_path.iterdir()) == []


def test_the_npus_binary_comes_with_inputs_and_a_script_for_a_phone(bundle, tmp_path):
    pytest.importorskip("onnxruntime_qnn", reason="Qualcomm's compiler is built for Linux x86-64 alone")
    phone_bundle.write(str(bundle), tmp_path / "bundle", npu=True, effort="long")
    npu = tmp_path / "bundle" / "npu"
    verify(tmp_path / "bundle")
    assert json.loads((npu / "report.json").read_text())["effort"] == "long"
    assert "effort long" in (tmp_path / "bundle" / "README.md").read_text()
    inputs = dict(word.split(":=") for word in (npu / "input_list.txt").read_text().split())
    assert set(inputs.values()) == {f"sample/{name}.raw" for name in ("noise", "image_latents", "token", "ids")}
    assert np.fromfile(npu / "sample" / "noise.raw", "<f4").size == whole_bundle.FRAMES * 4 * 8 * 8
    [binary] = npu.glob("*.bin")
    assert f"--retrieve_context {binary.name}" in (npu / "run_adb.sh").read_text()
    checker = Path(sys.executable).with_name("shellcheck")
    assert subprocess.run([checker, npu / "run_adb.sh"], capture_output=True, text=True).stdout == ""
