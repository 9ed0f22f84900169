"""Two folders of videos: still ones are far and do not move, unusable files are named; for equal ones see test_cli."""

from pathlib import Path

import numpy as np
import pytest
from movies import moving, texture, write_video

from mobilevd.errors import DataError
from mobilevd.stages import compare

FRAMES, FPS = 9, 7.0


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    """Two videos of other codecs and lengths, one of them in a folder of its own."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "more").mkdir()
    moving(folder / "a.mkv", 1)
    moving(folder / "more" / "b.mkv", 2, seconds=3.0, rate=10.0)
    (folder / ".DS_Store").write_bytes(b"x")
    return folder


@pytest.fixture(scope="module")
def still(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("still")
    for seed in (1, 2):
        write_video(folder / f"{seed}.mkv", [texture(seed)] * 16, [k / 10 for k in range(16)])
    return folder


def test_still_videos_are_far_and_do_not_move(real, still):
    made = compare.folders(real, still, FRAMES, FPS)
    row = compare.row(made)
    assert row["fvd"] > 1
    assert row["fvd_low"] <= row["fvd"] <= row["fvd_high"]
    assert np.isfinite([row["kvd"], row["kvd_low"], row["kvd_high"]]).all()
    assert row["motion_ratio"] == pytest.approx(0.0, abs=1e-3)
    assert row["first_frame_copy_rate"] == 1.0
    assert row["real_clips"] == 2
    assert "input_adherence" not in row, "files of other names are no pairs"
    protocol = {"clips": 2, "frames": 9, "fps": 7.0, "width": 512, "height": 256, "resize": "tf-reference"}
    assert protocol.items() <= row["fingerprint"].items()
    assert row["fingerprint"]["seed"] is None
    assert [line["figure"] for line in compare.table(made)] == [*made.figures, "fingerprint"]


def test_files_of_the_same_names_are_pairs_and_the_same_clips_adhere(real, tmp_path):
    moving(tmp_path / "a.avi.mkv", 1)
    (tmp_path / "more").mkdir()
    (tmp_path / "a.avi.mkv").rename(tmp_path / "a.mp4")
    moving(tmp_path / "more" / "b.mkv", 2, seconds=3.0, rate=10.0)
    row = compare.row(compare.folders(real, tmp_path, FRAMES, FPS))
    assert row["input_adherence"] == pytest.approx(1.0)
    assert (row["fvd"], row["fvd_high"]) == pytest.approx((0.0, 0.0), abs=1e-6)


def test_first_clip_of_a_video_is_taken_from_its_start_at_the_asked_rate(tmp_path):
    levels = [np.full((32, 64, 3), k, np.uint8) for k in range(60)]
    write_video(tmp_path / "a.mkv", levels, [k / 10 for k in range(60)])
    clip = compare.Clip(frames=FRAMES, fps=5.0, width=512, height=256)
    video = compare._first_clip(tmp_path / "a.mkv", clip)
    assert video.shape == (FRAMES, 3, 256, 512)
    assert video[:, 0, 0, 0].tolist() == [2 * k for k in range(FRAMES)]


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_videos_are_refused(real, tmp_path, count):
    for seed in range(count):
        moving(tmp_path / f"{seed}.mkv", seed)
    with pytest.raises(DataError, match=f"Too few videos(.|\n)*{count} in {tmp_path}"):
        compare.folders(real, tmp_path, FRAMES, FPS)


def test_folder_that_is_not_there_is_refused(real, tmp_path):
    with pytest.raises(DataError, match=r"0 in .*nowhere"):
        compare.folders(real, tmp_path / "nowhere", FRAMES, FPS)


@pytest.mark.parametrize(("name", "reason"), [("short.mkv", "clip spans 1.14 s"), ("notes.txt", "")])
def test_file_that_cannot_be_used_is_named_and_not_left_out(real, tmp_path, name, reason):
    moving(tmp_path / "a.mkv", 1)
    if name == "short.mkv":
        moving(tmp_path / name, 2, seconds=0.5)
    else:
        (tmp_path / name).write_text("about these videos")
    with pytest.raises(DataError, match=f"(?s)A video cannot be used.*{name}.*{reason}"):
        compare.folders(real, tmp_path, FRAMES, FPS)
