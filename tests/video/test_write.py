"""What is written plays: every frame, at its rate, in its colours; and a name that cannot be written costs nothing."""

from pathlib import Path

import av
import numpy as np
import pytest
from movies import texture
from PIL import Image, ImageSequence

from mobilevd.errors import MobileVDError
from mobilevd.video import write

FRAMES = 14


@pytest.fixture(scope="module")
def video() -> np.ndarray:
    """A smooth texture that slides: F H W 3."""
    picture = texture(4, 64, 128)
    return np.stack([np.roll(picture, 4 * k, axis=1) for k in range(FRAMES)])


def distances(read: list[np.ndarray], video: np.ndarray) -> tuple[float, float]:
    """Mean absolute difference of single pixels, and the largest shift of any channel's mean, in grey levels."""
    off = np.stack(read).astype(int) - video
    return np.abs(off).mean(), np.abs(off.mean(axis=(0, 1, 2))).max()


@pytest.mark.parametrize("fps", [7.0, 7.5, 29.97])
def test_mp4_holds_every_frame_at_its_rate(video, tmp_path, fps):
    path = write.save(video, tmp_path / "deep" / "out.mp4", fps)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == pytest.approx(fps, rel=1e-3)
        frames = list(container.decode(stream))
    assert [frame.time for frame in frames] == pytest.approx([k / fps for k in range(FRAMES)], abs=1e-3)
    pixels, colours = distances([frame.to_ndarray(format="rgb24") for frame in frames], video)
    assert pixels < 9, "every other column and row shares its colour"
    assert colours < 1.5


@pytest.mark.parametrize(("ending", "tolerance"), [(".gif", 12), (".webp", 6), (".WEBP", 6)])
def test_animated_picture_holds_every_frame_at_its_rate_and_repeats(video, tmp_path, ending, tolerance):
    path = write.save(video, tmp_path / f"out{ending}", 7.0)
    with Image.open(path) as picture:
        assert (picture.n_frames, picture.info.get("loop")) == (FRAMES, 0)
        read = []
        for frame in ImageSequence.Iterator(picture):
            frame.load()
            assert frame.info["duration"] == pytest.approx(1000 / 7, abs=5)
            read.append(np.asarray(frame.convert("RGB")))
    pixels, colours = distances(read, video)
    assert pixels < tolerance
    assert colours < 1.5


@pytest.mark.parametrize("name", ["out.avi", "out", "out.mp4.txt", ".mp4"])
def test_other_ending_is_refused_before_anything_is_written(video, tmp_path, name):
    with pytest.raises(MobileVDError, match=r"\.mp4, \.gif, \.webp") as error:
        write.save(video, tmp_path / "new" / name, 7.0)
    assert error.value.got == name
    assert not (tmp_path / "new").exists()


def test_file_appears_whole_or_not_at_all(video, tmp_path):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"older")
    broken = np.ascontiguousarray(video[:, :63, :127])
    with pytest.raises(MobileVDError, match=r"The film cannot be written(.|\n)*out.mp4"):
        write.save(broken, path, 7.0)  # H.264 in 4:2:0 has no odd sizes
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", write.SUFFIXES)
def test_name_that_a_folder_has_or_that_is_too_long_is_an_error_of_ours_and_nothing_is_left(video, tmp_path, ending):
    (tmp_path / f"out{ending}").mkdir()
    for name in (f"out{ending}", f"{'x' * 300}{ending}"):
        with pytest.raises(MobileVDError, match="The film cannot be written"):
            write.save(video, tmp_path / name, 7.0)
    assert [p.name for p in tmp_path.iterdir()] == [f"out{ending}"]


def test_nothing_is_left_beside_the_file(video, tmp_path):
    for ending in write.SUFFIXES:
        write.save(video, tmp_path / f"out{ending}", 7.0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.gif", "out.mp4", "out.webp"]


def test_place_where_nothing_can_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file" / "folder", Path("/proc")):  # root may write to /proc, but it has no files
        with pytest.raises(MobileVDError, match=r"Nothing can be written there(.|\n)*the output path"):
            write.check_place(folder)
    write.check_place(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
