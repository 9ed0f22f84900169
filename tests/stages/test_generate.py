"""Photographs of every kind become films that their names and seeds tell; the folder's bad ones are told."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_svd
import torch
from movies import texture
from PIL import Image

from mobilevd.errors import MobileVDError
from mobilevd.pipeline import MobileVDPipeline
from mobilevd.stages import generate
from mobilevd.stages.generate import Film, Wish

FRAMES, SIDE = 3, 64
SIDEWAYS = 6  # EXIF: the camera was held upright


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return tiny_svd.write_bundle(tmp_path_factory.mktemp("bundles") / "bundle", frames=FRAMES).path


@pytest.fixture(scope="module")
def animate(bundle):
    return generate.animator(bundle, "torch")


@pytest.fixture
def photos(tmp_path) -> Path:
    """Landscape, portrait, turned by EXIF, grey with transparency, tiny, and what is no photograph."""
    folder = tmp_path / "photos"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = SIDEWAYS
    Image.fromarray(texture(1, 90, 121)).save(folder / "landscape.jpg")
    Image.fromarray(texture(2, 201, 67)).save(folder / "portrait.png")
    Image.fromarray(texture(3, 60, 100)).save(folder / "turned.jpg", exif=exif, quality=95)
    Image.fromarray(texture(4, 33, 35)).convert("LA").save(folder / "grey.png")
    Image.fromarray(texture(5, 1, 1)).save(folder / "dot.webp")
    (folder / "words.jpg").write_text("a thousand")
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes((folder / "grey.png").read_bytes())
    return folder


def names(films: list[Film]) -> list[str]:
    return [film.path.name for film in films]


def test_every_photograph_of_a_folder_becomes_a_film_and_the_bad_one_is_told(photos, animate, tmp_path):
    films = generate.plan(photos, tmp_path / "films", [7], "webp")
    made = list(generate.run(films, animate, Wish()))
    assert [(one.film.photo.name, one.problem) for one in made if one.problem] == [("words.jpg", "not a photograph")]
    written = {path.name for path in (tmp_path / "films").iterdir()}
    assert written == {"landscape.webp", "portrait.webp", "turned.webp", "grey.webp", "dot.webp"}
    for path in (tmp_path / "films").iterdir():
        with Image.open(path) as film:
            assert (film.size, film.n_frames) == ((SIDE, SIDE), FRAMES)
    assert all(one.seconds > 0 for one in made if not one.problem)


def test_photograph_that_exif_turns_is_animated_upright(photos, animate, tmp_path):
    with Image.open(photos / "turned.jpg") as stored:
        upright = np.rot90(np.asarray(stored), -1)
    [film] = generate.plan(photos / "turned.jpg", tmp_path / "a.webp", [0])
    list(generate.run([film], animate, Wish()))
    Image.fromarray(upright).save(tmp_path / "upright.png")
    [other] = generate.plan(tmp_path / "upright.png", tmp_path / "b.webp", [0])
    list(generate.run([other], animate, Wish()))
    assert film.path.read_bytes() == other.path.read_bytes()


def test_variants_are_named_by_the_seed_that_makes_them_again(photos, animate, tmp_path):
    films = generate.plan(photos / "landscape.jpg", tmp_path / "out.webp", range(3, 6))
    assert names(films) == ["out-seed3.webp", "out-seed4.webp", "out-seed5.webp"]
    list(generate.run(films, animate, Wish()))
    again = generate.plan(photos / "landscape.jpg", tmp_path / "again.webp", [4])
    list(generate.run(again, animate, Wish()))
    assert films[1].path.read_bytes() == again[0].path.read_bytes()
    assert len({film.path.read_bytes() for film in films}) == 3


def test_film_is_what_the_library_gives(photos, animate, bundle):
    picture = texture(1, 90, 121)
    frames, fps = animate(picture, 5, Wish(fps=9.0, motion=3))
    image = torch.from_numpy(picture.copy()).permute(2, 0, 1)
    expected = MobileVDPipeline.from_pretrained(bundle)(image, seed=5, fps=9.0, motion_bucket=3)
    assert np.array_equal(frames, expected.frames.permute(0, 2, 3, 1).numpy())
    assert fps == 9.0


def test_photographs_of_one_stem_keep_their_endings_apart(tmp_path):
    for name in ("a.jpg", "a.png", "b.jpg"):
        Image.fromarray(texture(1, 8, 8)).save(tmp_path / name)
    assert names(generate.plan(tmp_path, tmp_path / "films", [0])) == ["a.jpg.mp4", "a.png.mp4", "b.mp4"]


@pytest.mark.parametrize(
    ("out", "kind", "said"),
    [
        ("films.mp4", "mp4", "need a folder"),
        ("taken", "mp4", "need a folder"),
        ("films", "avi", r"cannot be written(.|\n)*--format"),
        ("half", "mp4", r"A folder has the film's name(.|\n)*turned-seed8.mp4(.|\n)*OUT"),
    ],
)
def test_outputs_of_a_folder_that_do_not_fit_are_refused_before_any_work(photos, tmp_path, out, kind, said):
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "half" / "turned-seed8.mp4").mkdir(parents=True)
    with pytest.raises(MobileVDError, match=said):
        generate.plan(photos, tmp_path / out, [7, 8], kind)


def test_folder_without_a_photograph_is_refused(tmp_path):
    with pytest.raises(MobileVDError, match="holds no photograph"):
        generate.plan(tmp_path, tmp_path / "films", [0])


def test_without_torch_the_default_is_onnx_and_torch_is_refused_by_name():
    script = """
import importlib.util
importlib.util.find_spec = lambda name: None
from mobilevd.errors import MobileVDError
from mobilevd.stages import generate
generate.find_spec = importlib.util.find_spec
print(generate.backend(None))
try:
    generate.backend("torch")
except MobileVDError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("onnx\nPyTorch and diffusers are not installed")
    assert generate.backend(None) == "torch"
