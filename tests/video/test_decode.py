import random
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from movies import greys, moving, sound, texture, write_video

from mobilevd.video import decode
from mobilevd.video.decode import Reason, UnusableError


def levels(path, fps, start_s=0.0, count=None):
    timing = decode.timing(path)
    count = count or int((timing.length_s + decode.ROUNDING_S) * fps) + 1
    return [int(picture[0, 0, 0]) for picture in decode.frames(path, fps, timing, start_s, count)]


def test_frame_at_a_tick_is_the_last_one_at_or_before_it_at_a_variable_rate(tmp_path):
    rng = random.Random(0)
    times = [0.0]
    while len(times) < 60:
        times.append(times[-1] + rng.choice([0.011, 0.04, 0.09, 0.4]))
    path = write_video(tmp_path / "vfr.mkv", greys(60), times)
    ticks = [k / 7 for k in range(int(times[-1] * 7) + 1)]
    expected = [max(k for k, at in enumerate(times) if round(at * 1000) <= tick * 1000 + 1) for tick in ticks]
    assert levels(path, 7.0) == expected
    assert len(set(expected)) < len(expected), "the longest gaps repeat a frame"


def test_clock_in_milliseconds_neither_repeats_nor_skips_a_frame(tmp_path):
    path = write_video(tmp_path / "seven.mkv", greys(40), [k / 7 for k in range(40)])
    assert levels(path, 7.0) == list(range(40))


def test_ticks_count_from_the_first_picture_not_from_zero(tmp_path):
    path = write_video(tmp_path / "late.mkv", greys(20), [3.0 + k / 10 for k in range(20)])
    assert levels(path, 5.0) == list(range(0, 20, 2))


def test_seeking_gives_the_frames_that_reading_through_gives(tmp_path):
    path = write_video(tmp_path / "long.mkv", greys(200), [k / 10 for k in range(200)], codec="ffv1")
    h264 = {"options": {"g": "25", "bf": "2", "qp": "0"}}
    pictures = [np.roll(texture(1), 3 * k, axis=1) for k in range(200)]
    smooth = write_video(tmp_path / "long.mp4", pictures, [k / 10 for k in range(200)], codec="libx264", **h264)
    for video in (path, smooth):
        timing = decode.timing(video)
        through = list(decode.frames(video, 7.0, timing, 0.0, 130))
        jumped = list(decode.frames(video, 7.0, timing, 100 / 7, 14))
        assert all(np.array_equal(a, b) for a, b in zip(jumped, through[100:114], strict=True))


def test_seek_that_lands_too_late_is_not_believed(tmp_path, monkeypatch):
    path = write_video(tmp_path / "long.mkv", greys(200), [k / 10 for k in range(200)])
    honest = decode._seek
    monkeypatch.setattr(decode, "_seek", lambda container, stream, at_s: honest(container, stream, at_s + 3))
    assert levels(path, 10.0, start_s=12.0, count=4) == [120, 121, 122, 123]


def test_picture_that_comes_no_later_than_the_one_before_is_passed_over(tmp_path):
    path = write_video(tmp_path / "stutter.mkv", greys(6), [0.0, 0.1, 0.1, 0.2, 0.2, 0.3])
    assert [at for at, _ in decode.pictures(path)] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert levels(path, 10.0) == [0, 1, 3, 5]


def test_pictures_that_run_out_before_the_timestamps_do_are_damage(tmp_path):
    path = write_video(tmp_path / "v.mkv", greys(20), [k / 10 for k in range(20)])
    with pytest.raises(UnusableError, match=r"truncated or corrupt \(no picture at"):
        list(decode.frames(path, 10.0, decode.Timing(0.0, 4.0), 0.0, 40))
    with pytest.raises(UnusableError, match=r"too short \(no picture at"):
        list(decode.frames(path, 10.0, decode.timing(path), 0.0, 40))


@pytest.mark.parametrize(("degrees", "matrix"), [(90, (0, 1, -1, 0)), (180, (-1, 0, 0, -1)), (270, (0, -1, 1, 0))])
def test_pictures_are_turned_as_the_file_asks(tmp_path, degrees, matrix):
    picture = texture(2, 48, 80)
    times = [k / 10 for k in range(5)]
    path = write_video(
        tmp_path / "turned.mp4", [picture] * 5, times, codec="libx264rgb", pix_fmt="rgb24", options={"qp": "0"}
    )
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    [seen] = decode.frames(path, 7.0, decode.timing(path), 0.0, 1)
    assert np.array_equal(seen, np.rot90(picture, -degrees // 90))


def corrupt(path):
    content = bytearray(path.read_bytes())
    middle = content.index(b"mdat") + (len(content) - content.index(b"mdat")) // 2
    content[middle : middle + 4000] = bytes(random.Random(0).randbytes(4000))
    path.write_bytes(content)


def broken_files(folder):
    """One file for every reason that a look at a video can find."""
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "notes.txt").write_text("not a film\n" * 40)
    (folder / "text.mp4").write_text("not a film\n" * 40)
    (folder / "noise.mkv").write_bytes(random.Random(1).randbytes(5000))
    sound(folder / "sound.wav")
    h264 = {"codec": "libx264", "options": {"g": "5", "x264-params": "keyint=5"}}
    times = [k / 10 for k in range(60)]
    pictures = [np.roll(texture(3), 5 * k, axis=1) for k in range(60)]
    cut = write_video(folder / "no_index.mp4", pictures, times, **h264)
    cut.write_bytes(cut.read_bytes()[:-2000])
    cut = moving(folder / "half.mkv", 4, seconds=6)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    return {
        "empty.mp4": Reason.EMPTY,
        "notes.txt": Reason.NOT_VIDEO,
        "text.mp4": Reason.NOT_VIDEO,
        "noise.mkv": Reason.NOT_VIDEO,
        "sound.wav": Reason.AUDIO_ONLY,
        "no_index.mp4": Reason.DAMAGED,
        "half.mkv": Reason.DAMAGED,
    }


def test_every_unusable_file_has_its_reason(tmp_path):
    for name, reason in broken_files(tmp_path).items():
        with pytest.raises(UnusableError) as error:
            decode.timing(tmp_path / name)
        assert (name, error.value.reason) == (name, reason)


def test_file_damaged_in_the_middle_gives_its_first_frames_and_then_its_reason(tmp_path):
    pictures = [np.roll(texture(5, 128, 256), 9 * k, axis=1) for k in range(120)]
    path = write_video(tmp_path / "scratched.mp4", pictures, [k / 10 for k in range(120)], codec="mpeg4")
    corrupt(path)
    seen = []
    with pytest.raises(UnusableError) as error:
        seen.extend(decode.frames(path, 7.0, decode.timing(path), 0.0, 80))
    assert error.value.reason == Reason.DAMAGED
    assert len(seen) > 5


def test_real_damaged_rotated_and_mislabelled_files_are_told_apart(assets):
    awkward = assets / "awkward"
    timing = decode.timing(awkward / "decord_corrupted.mp4")
    with pytest.raises(UnusableError, match="truncated or corrupt"):
        list(decode.frames(awkward / "decord_corrupted.mp4", 7.0, timing, 0.0, 30))
    for degrees, shape in ((0, (320, 568)), (90, (568, 320)), (180, (320, 568)), (270, (568, 320))):
        path = awkward / f"decord_video_{degrees}.mov"
        [seen] = decode.frames(path, 7.0, decode.timing(path), 0.0, 1)
        assert seen.shape[:2] == shape
    path = awkward / "hmdb51_non_utf8_metadata.avi"
    times = [at for at, _ in decode.pictures(path)]
    assert times == sorted(set(times))
    assert len(times) >= 80, "a clock that runs backwards costs at most a few pictures"


def test_every_real_clip_gives_a_clip_of_fourteen_frames(assets):
    videos = sorted((assets / "clips").iterdir())
    lengths = {video.name: decode.timing(video).length_s for video in videos}
    assert len(lengths) >= 20
    assert not [name for name, length in lengths.items() if length < 13 / 7 - 1e-3]


def test_clock_prefers_the_steadier_of_the_two():
    clock = decode._Clock()
    swapped = [(1, 2), (4, 3), (3, 4), (6, 5), (5, 6), (8, 7)]
    assert [clock.read(pts, dts) for pts, dts in swapped] == [1, 4, 4, 5, 6, 7]
    assert decode._Clock().read(None, 9) == 9


def with_pixels(path, aspect):
    """A video whose file says that its pixels are so wide."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        for k in range(20):
            picture = np.full((64, 96, 3), 40, np.uint8)
            picture[16:48, 32 + k : 64 + k] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_square_of_a_video_with_wide_pixels_is_wide(tmp_path):
    path = with_pixels(tmp_path / "anamorphic.mp4", Fraction(2))
    timing = decode.timing(path)
    [seen] = decode.frames(path, 7.0, timing, 0.0, 1)
    assert (timing.pixel_width, seen.shape) == (2.0, (64, 192, 3))
    assert (seen[32, :, 0] > 130).sum() == pytest.approx(64, abs=2), "32 pixels, twice as wide"
    assert (seen[:, 96, 0] > 130).sum() == pytest.approx(32, abs=2)


def test_pixels_that_no_camera_has_are_a_mistake_of_the_file(tmp_path):
    with pytest.raises(UnusableError, match="9 times as wide as high") as error:
        decode.timing(with_pixels(tmp_path / "wild.mp4", Fraction(9)))
    assert error.value.reason == Reason.UNREADABLE


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG"), (1, None)])
def test_high_dynamic_range_is_named_with_the_way_out(tmp_path, transfer, name):
    path = tmp_path / "phone.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
        stream.codec_context.color_trc = transfer
        for level in range(10):
            picture = np.full((64, 64, 3), 20 * level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    if name is None:
        assert decode.timing(path).length_s == pytest.approx(0.9)
        return
    with pytest.raises(UnusableError, match=f"{name}; make it SDR first: ffmpeg -i IN -vf zscale") as error:
        decode.timing(path)
    assert error.value.reason == Reason.HDR
