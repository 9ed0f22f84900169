"""Generate: photographs → films with a trained model, in torch, or in ONNX Runtime without it.

**Keeps** every film can be made again from the seed that its name tells; one bad photograph of a folder does not stop
the others (``tests/stages/test_generate.py``). **Axes** photo H W 3, frames F H W 3, uint8.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import numpy as np
from jaxtyping import UInt8

from mobilevd.errors import MobileVDError
from mobilevd.video import photo, write
from mobilevd.video.decode import UnusableError

TORCH, ONNX = "torch", "onnx"


@dataclass(frozen=True)
class Wish:
    """What is asked of every film; None: as the model was trained."""

    fps: float | None = None
    motion: int | None = None


@dataclass(frozen=True)
class Film:
    """One film to make: of which photograph, with which seed, written where."""

    photo: Path
    seed: int
    path: Path


@dataclass(frozen=True)
class Made:
    """A film that was made, in ``seconds`` without reading and writing, or why it was not."""

    film: Film
    frames: int = 0
    fps: float = 0.0
    seconds: float = 0.0
    problem: str = ""


Animator = Callable[[UInt8[np.ndarray, "Hi Wi 3"], int, Wish], tuple[UInt8[np.ndarray, "F H W 3"], float]]


def plan(image: Path, out: Path, seeds: Sequence[int], kind: str = "mp4") -> list[Film]:
    """The films of one photograph, written to ``out``, or of every photograph of a folder, written into folder ``out``.

    More seeds than one are told in the names: ``out-seed7.mp4``.
    Errors: MobileVDError when there is no photograph, or the output's name does not fit or is taken, before any work.
    """
    if image.is_dir():
        films = [film for path, stem in _photographs(image) for film in _films(path, _inside(out, stem, kind), seeds)]
        write.check_place(out)
        return _free(films)
    write.check_name(out)
    if not image.is_file():
        raise MobileVDError("The image does not exist", got=str(image), allowed="a photograph", where="IMAGE")
    write.check_place(out.parent)
    return _free(_films(image, out, seeds))


def backend(wanted: str | None) -> str:
    """``wanted``, or torch where it is installed and ONNX Runtime elsewhere. Errors: MobileVDError without torch."""
    installed = find_spec("torch") is not None and find_spec("diffusers") is not None
    if wanted == TORCH and not installed:
        allowed = "--backend onnx, or an environment with mobilevd[train]"
        raise MobileVDError("PyTorch and diffusers are not installed", got=TORCH, allowed=allowed, where="--backend")
    return wanted or (TORCH if installed else ONNX)


def animator(folder: Path, backend: str) -> Animator:
    """The bundle in ``folder``, ready to animate. Errors: as ``check``, before PyTorch is imported."""
    if backend == ONNX:
        return _in_onnx(folder)
    from mobilevd.device.animate import check

    check(folder)
    return _in_torch(folder)


def run(films: Sequence[Film], animate: Animator, wish: Wish) -> Iterator[Made]:
    """Make one film after the other; a photograph that cannot be used is told in its place."""
    for film in films:
        try:
            picture = np.array(photo.upright(film.photo))
        except UnusableError as error:
            yield Made(film, problem=str(error))
            continue
        began = perf_counter()
        frames, fps = animate(picture, film.seed, wish)
        seconds = perf_counter() - began
        write.save(frames, film.path, fps)
        yield Made(film, len(frames), fps, seconds)


def _films(image: Path, out: Path, seeds: Sequence[int]) -> list[Film]:
    names = [out.name] if len(seeds) == 1 else [f"{out.stem}-seed{seed}{out.suffix}" for seed in seeds]
    return [Film(image, seed, out.with_name(name)) for seed, name in zip(seeds, names, strict=True)]


def _free(films: list[Film]) -> list[Film]:
    for film in films:
        if film.path.is_dir():
            allowed = "the name of a file to be made"
            raise MobileVDError("A folder has the film's name", got=str(film.path), allowed=allowed, where="OUT")
    return films


def _photographs(folder: Path) -> list[tuple[Path, str]]:
    """Every photograph of a folder and what its film is called: two of one stem keep their endings."""
    found = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in photo.SUFFIXES and not p.name.startswith(".")]
    if not found:
        allowed = f"files that end in {', '.join(sorted(photo.SUFFIXES))}"
        raise MobileVDError("The folder holds no photograph", got=str(folder), allowed=allowed, where="IMAGE")
    count = Counter(path.stem for path in found)
    return [(path, path.stem if count[path.stem] == 1 else path.name) for path in found]


def _inside(out: Path, stem: str, kind: str) -> Path:
    if out.is_file() or out.suffix.lower() in write.SUFFIXES:
        allowed = "a folder, for the films of a folder of photographs"
        raise MobileVDError("The films of a folder need a folder", got=str(out), allowed=allowed, where="OUT")
    path = out / f"{stem}.{kind}"
    write.check_name(path, "--format")
    return path


def _in_torch(folder: Path) -> Animator:
    import torch

    from mobilevd.pipeline import MobileVDPipeline

    pipeline = MobileVDPipeline.from_pretrained(folder)

    def animate(picture, seed: int, wish: Wish):
        image = torch.tensor(picture).permute(2, 0, 1)
        made = pipeline(image, seed=seed, fps=wish.fps, motion_bucket=wish.motion)
        return made.frames.permute(0, 2, 3, 1).contiguous().numpy(), made.fps

    return animate


def _in_onnx(folder: Path) -> Animator:
    from mobilevd.device.animate import OnnxPipeline

    pipeline = OnnxPipeline.from_pretrained(folder)

    def animate(picture, seed: int, wish: Wish):
        made = pipeline(picture, seed=seed, fps=wish.fps, motion_bucket=wish.motion)
        return made.frames, made.fps

    return animate
