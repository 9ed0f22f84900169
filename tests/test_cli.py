"""The command line: every command explains itself, prints a table or JSON, and fails without a traceback."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import get_args

import av
import command_line
import numpy as np
import pytest
import tiny_svd
from command_line import run
from movies import moving, texture
from PIL import Image
from typer.testing import CliRunner

from mobilevd import cli, cli_device, packages
from mobilevd.device import estimate
from mobilevd.evaluation import i3d
from mobilevd.video import sample_data, write

COMMANDS = ("sample-data", "cost", "evaluate", "generate")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return tiny_svd.write_bundle(tmp_path_factory.mktemp("bundles") / "bundle").path


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    Image.fromarray(texture(1, 90, 120)).save(path, quality=95)
    return path


@pytest.fixture
def refused(monkeypatch, capsys):
    """``refused(*words)``: what a failing command says, and its exit code."""
    return partial(command_line.refused, monkeypatch, capsys)


def test_every_command_is_listed_with_what_it_does():
    told = run("--help")
    assert all(command in told for command in COMMANDS)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("sample-data", ("Bring the sample clips", "FOLDER")),
        ("cost", ("nothing is run", "--ladder", "--ablations", "--model", "--split", "--with-encoders", "--json")),
        ("evaluate", ("FVD, KVD and motion", "--real", "--generated", "--frames", "--fps", "--json")),
        (
            "generate",
            ("Animate photographs", "IMAGE", "OUT", "--model", "s3://", "--variants", "--format", "--backend"),
        ),
        ("generate", ("mp4|gif|webp", "torch|onnx")),
        ("estimate", ("compiled|onnx|tflite",)),
    ],
)
def test_help_of_a_command_names_its_options(command, expected, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    told = " ".join(run(command, "--help").split())
    assert all(word.lower() in told.lower() for word in expected), told


def read(path: Path) -> tuple[list[np.ndarray], float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)], float(stream.average_rate)


def test_generate_writes_a_film_of_the_photograph(bundle, photo, tmp_path):
    told = run("generate", photo, tmp_path / "new" / "out.mp4", "--model", bundle)
    frames, rate = read(tmp_path / "new" / "out.mp4")
    assert len(frames) == 14
    assert {frame.shape for frame in frames} == {(64, 64, 3)}
    assert rate == pytest.approx(7.0)
    assert "14 frames at 7 fps" in told
    assert not any(np.array_equal(frames[0], frame) for frame in frames[1:])


def test_generate_heeds_seed_rate_and_motion(bundle, photo, tmp_path):
    def film(name: str, *options) -> bytes:
        run("generate", photo, tmp_path / name, "--model", bundle, *options)
        return (tmp_path / name).read_bytes()

    plain = film("a.webp")
    assert film("b.webp") == plain
    assert film("c.webp", "--seed", "0") == plain
    others = [film("d.webp", "--seed", "1"), film("e.webp", "--motion", "255"), film("f.webp", "--fps", "12")]
    assert len({plain, *others}) == 4
    with Image.open(tmp_path / "f.webp") as picture:
        picture.seek(1)
        picture.load()
        assert picture.info["duration"] == pytest.approx(1000 / 12, abs=1)


def test_generate_animates_a_folder_tells_each_film_and_ends_with_an_error_for_the_bad_ones(bundle, photo, tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copyfile(photo, tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / "b.jpg").write_text("words")
    words = ["generate", tmp_path / "in", tmp_path / "out", "--model", bundle, "--format", "gif", "--variants", "2"]
    done = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert "2 of 4 films were not made" in str(done.exception)
    assert "b.jpg: not a photograph" in str(done.exception)
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["a-seed0.gif", "a-seed1.gif"]
    assert all(f"{name}: 14 frames at 7 fps" in done.stdout for name in ("a-seed0.gif", "a-seed1.gif"))
    assert "with torch, ready after" in done.stderr


def test_output_of_another_kind_is_refused_before_anything_is_read(refused, tmp_path):
    said, code = refused("generate", tmp_path / "no.jpg", tmp_path / "out.avi", "--model", tmp_path / "no")
    assert code == 1
    assert "cannot be written" in said
    assert ".mp4, .gif, .webp" in said


def test_missing_photograph_is_named(refused, bundle, tmp_path):
    said, code = refused("generate", tmp_path / "no.jpg", tmp_path / "out.mp4", "--model", bundle)
    assert code == 1
    assert "The image does not exist" in said
    assert "no.jpg" in said


def test_file_that_is_no_photograph_is_refused(refused, bundle, tmp_path):
    (tmp_path / "text.jpg").write_text("a thousand words")
    said, code = refused("generate", tmp_path / "text.jpg", tmp_path / "out.mp4", "--model", bundle)
    assert code == 1
    assert "photo" in said


def test_folder_that_is_no_bundle_is_refused(refused, photo, tmp_path):
    said, code = refused("generate", photo, tmp_path / "out.mp4", "--model", tmp_path)
    assert code == 1
    assert "no bundle" in said
    assert not (tmp_path / "out.mp4").exists()


def test_model_that_is_not_there_is_not_called_a_folder(refused, photo, tmp_path):
    said, code = refused("generate", photo, tmp_path / "out.mp4", "--model", tmp_path / "nope")
    assert code == 1
    assert "There is no such model" in said
    assert "--model" in said


def test_films_place_that_is_taken_or_cannot_be_written_to_is_refused_before_the_model_is_loaded(
    refused, photo, tmp_path
):
    (tmp_path / "out.mp4").mkdir()
    for out, told in ((tmp_path / "out.mp4", "A folder has"), ("/proc/x.mp4", "Nothing can be written")):
        said, code = refused("generate", photo, out, "--model", tmp_path / "nope")
        assert code == 1
        assert said.startswith(told)
    assert list(tmp_path.iterdir()) == [tmp_path / "out.mp4"]


def test_bundle_with_a_changed_byte_is_refused(refused, bundle, photo, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    said, code = refused("generate", photo, tmp_path / "out.mp4", "--model", copy)
    assert code == 1
    assert "unet/diffusion_pytorch_model.safetensors" in said


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--fps", "0"), "--fps"),
        (("--fps", "-7"), "--fps"),
        (("--motion", "256"), "--motion"),
        (("--seed", "x"), "--seed"),
        (("--format", "avi"), "--format"),
    ],
)
def test_impossible_option_of_generate_is_refused_by_its_name(refused, bundle, photo, tmp_path, options, named):
    said, code = refused("generate", photo, tmp_path / "out.mp4", "--model", bundle, *options)
    assert code == 2
    assert named in said


@pytest.mark.parametrize("options", [("--frames", "8"), ("--frames", "65"), ("--fps", "0"), ("--preprocessing", "zz")])
def test_impossible_option_of_evaluate_is_refused_by_its_name(refused, tmp_path, options):
    said, code = refused("evaluate", "--real", tmp_path, "--generated", tmp_path, *options)
    assert code == 2
    assert options[0] in said


def test_evaluate_of_a_folder_against_itself_has_no_distance(tmp_path, refused):
    folder, report = tmp_path / "clips", tmp_path / "report.json"
    folder.mkdir()
    for seed in (1, 2):
        moving(folder / f"{seed}.mkv", seed)
    words = ("evaluate", "--real", folder, "--generated", folder, "--frames")
    [row] = json.loads(run(*words, "9", "--report", report, "--json"))
    assert json.loads(report.read_text())["figures"]["fvd"]["value"] == row["fvd"]
    rows = json.loads(run(*words, "9", "--report", tmp_path / "again.json", "--against", report, "--json"))
    assert {one["difference"] for one in rows} == {0.0}
    said, _ = refused(*words, "10", "--report", tmp_path / "other.json", "--against", report)
    assert "different protocols: frames\n" in said
    assert row["fvd"] == pytest.approx(0.0, abs=1e-6)
    assert (row["motion_ratio"], row["first_frame_copy_rate"]) == (pytest.approx(1.0), 0.0)
    assert (row["fingerprint"]["frames"], row["fingerprint"]["fps"]) == (9, 7.0)


def test_preprocessings_of_evaluate_are_those_of_the_network():
    assert get_args(cli.Preprocessing) == get_args(i3d.Preprocessing)


def test_kinds_of_films_and_runtimes_are_those_that_are_known():
    assert tuple(f".{kind}" for kind in get_args(cli.Format)) == write.SUFFIXES
    assert get_args(cli_device.Runtime) == estimate.RUNTIMES


def test_report_and_page_that_cannot_be_written_are_refused_before_any_work(refused, tmp_path):
    (tmp_path / "file").write_text("x")
    words = ("evaluate", "--real", tmp_path, "--generated", tmp_path)
    for option in ("--report", "--page"):
        said, code = refused(*words, option, tmp_path / "file" / "out")
        assert code == 1
        assert "Nothing can be written there" in said


def test_preprocessing_beside_another_feature_network_is_refused(refused, tmp_path):
    words = ("evaluate", "--real", tmp_path, "--generated", tmp_path, "--features", tmp_path / "n.onnx")
    said, code = refused(*words, "--preprocessing", "sf-v")
    assert code == 1
    assert "another network" in said


def test_evaluate_names_the_folder_that_is_not_there_and_its_option(refused, tmp_path):
    folder, nope = tmp_path / "clips", tmp_path / "nope"
    folder.mkdir()
    for seed in (1, 2):
        moving(folder / f"{seed}.mkv", seed)
    for option in ("--real", "--generated", "--beside"):
        given = {"--real": folder, "--generated": folder} | {option: nope}
        said, code = refused("evaluate", "--frames", 9, *(word for pair in given.items() for word in pair))
        assert code == 1
        assert said.startswith(f"There is no such folder\n  got:     {nope}")
        assert said.endswith(f"where:   {option}\n")


def test_evaluate_of_an_empty_folder_is_refused(refused, tmp_path):
    said, code = refused("evaluate", "--real", tmp_path, "--generated", tmp_path)
    assert code == 1
    assert "Too few videos" in said


def test_sample_data_lays_the_set_and_does_nothing_when_it_is_there(tmp_path):
    first = run("sample-data", tmp_path / "data")
    assert str(tmp_path / "data") in first
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*") if path.is_file()}
    assert first.startswith(f"{len(files)} files")
    assert len(files) >= 10
    assert run("sample-data", tmp_path / "data") == first
    assert {path: path.stat().st_mtime_ns for path in files} == files


@pytest.mark.parametrize("pin", ["0" * 32 + ".dir", sample_data.IDENTITY, None])
def test_the_sample_set_is_not_laid_into_data_that_is_pinned_otherwise(monkeypatch, tmp_path, pin):
    monkeypatch.setattr(packages, "project_root", lambda: tmp_path)
    monkeypatch.setattr(sample_data, "bring", lambda folder: [folder / "videos" / "one.mp4"])
    if pin:
        (tmp_path / "data.dvc").write_text(f"outs:\n- md5: {pin}\n  path: data\n", encoding="utf-8")
    own = pin not in (sample_data.IDENTITY, None)
    assert ("pins other data than the sample set: nothing was brought" in run("sample-data")) == own
    assert run("sample-data", tmp_path / "elsewhere") == f"1 files in {tmp_path / 'elsewhere'}\n"


def test_command_in_a_process_of_its_own_ends_with_code_one_and_no_traceback(tmp_path):
    words = ["generate", str(tmp_path / "no.jpg"), str(tmp_path / "out.avi"), "--model", str(tmp_path)]
    script = "from mobilevd.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("This kind of file cannot be written")
    assert "Traceback" not in done.stderr
