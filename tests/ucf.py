"""A folder laid out as UCF-101 is: classes, videos of 320x240 at 25 pictures a second, the official lists."""

from pathlib import Path

from movies import moving

VIDEOS = {"Archery/v_Archery_g01_c01.avi": 1, "Archery/v_Archery_g02_c01.avi": 2, "Biking/v_Biking_g01_c01.avi": 3}
SHORT = "Biking/v_Biking_g02_c01.avi"


def lay(folder: Path) -> Path:
    """Three videos of 2.4 seconds and one of 1.2, which gives 14 frames at 25 fps and not at 7."""
    for name, seed in {**VIDEOS, SHORT: 4}.items():
        path = folder / "UCF-101" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        moving(path.with_suffix(".mkv"), seed, seconds=1.2 if name == SHORT else 2.4, rate=25.0, size=(240, 320))
        path.with_suffix(".mkv").rename(path)
    lists = folder / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "testlist01.txt").write_text("".join(f"{name}\r\n" for name in (SHORT, *VIDEOS)))
    (lists / "trainlist01.txt").write_text("".join(f"{name} {k}\n" for k, name in enumerate(VIDEOS, 1)))
    return folder / "UCF-101"
