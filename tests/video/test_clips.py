from pathlib import Path

import numpy as np
import pytest
import torch
from movies import greys, moving, texture, write_video
from PIL import Image

from mobilevd.settings import Clip
from mobilevd.video import clips, decode
from mobilevd.video.clips import Source
from mobilevd.video.decode import Reason, Timing, UnusableError

CLIP = Clip(frames=4, fps=10.0, width=128, height=64)


def named(folder, *names):
    return [Source(name, folder / name) for name in names]


def test_windows_lie_side_by_side_and_hold_consecutive_frames(tmp_path):
    path = write_video(tmp_path / "v.mkv", greys(21), [k / 10 for k in range(21)])
    levels = [video[:, 0, 0, 0].tolist() for video in clips.windows(path, CLIP)]
    assert levels == [[4 * w + k for k in range(4)] for w in range(5)]


def test_at_most_so_many_windows_are_spread_from_the_first_to_the_last():
    timing = Timing(0.0, 100.0)
    every = clips.starts(timing, CLIP)
    kept = clips.starts(timing, CLIP, at_most=5)
    assert len(kept) == 5
    assert (kept[0], kept[-1]) == (every[0], every[-1])
    assert set(kept) <= set(every)
    gaps = np.diff(kept)
    assert gaps.max() - gaps.min() <= 0.4 + 1e-9


def test_video_of_exactly_one_clip_is_long_enough_and_a_frame_less_is_not():
    assert clips.starts(Timing(5.0, 5.3), CLIP) == [0.0]
    with pytest.raises(UnusableError) as error:
        clips.starts(Timing(5.0, 5.2), CLIP)
    assert error.value.reason == Reason.TOO_SHORT


def test_stride_in_seconds_makes_windows_overlap(tmp_path):
    path = write_video(tmp_path / "v.mkv", greys(8), [k / 10 for k in range(8)])
    levels = [video[:, 0, 0, 0].tolist() for video in clips.windows(path, CLIP, stride_s=0.2)]
    assert levels == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]


@pytest.mark.parametrize(("width", "height"), [(300, 64), (128, 200), (50, 40)])
def test_fit_covers_the_clip_and_keeps_the_centre_and_the_aspect(width, height):
    picture = np.zeros((height, width, 3), np.uint8)
    side = min(width / 2, height) / 4
    v, u = np.mgrid[:height, :width]
    picture[(np.hypot(u + 0.5 - width / 2, v + 0.5 - height / 2) < side)] = 255
    seen = np.asarray(clips.fit(Image.fromarray(picture), 128, 64))[..., 0] > 127
    rows, columns = np.where(seen.any(1))[0], np.where(seen.any(0))[0]
    assert abs((rows[-1] - rows[0]) - (columns[-1] - columns[0])) <= 2, "a disc stays round"
    assert abs(rows.mean() - 31.5) <= 1
    assert abs(columns.mean() - 63.5) <= 1


def test_fit_is_antialiased():
    board = np.indices((512, 1024)).sum(0) % 2 * 255
    seen = np.asarray(clips.fit(Image.fromarray(np.stack([board] * 3, -1).astype(np.uint8)), 128, 64))
    assert np.abs(seen[4:-4, 4:-4].astype(int) - 127).max() <= 4


def test_split_keeps_stereo_twins_together_and_both_kinds_on_both_sides(tmp_path):
    photos = [f"photos/p{k}_{eye}.png" for k in range(6) for eye in ("left", "right")]
    found = named(tmp_path, *photos, *(f"videos/v{k}.mp4" for k in range(5)))
    sides = clips.sides(found, 0.25)
    for k in range(6):
        assert sides[f"photos/p{k}_left.png"] == sides[f"photos/p{k}_right.png"]
    for kind in ("photos", "videos"):
        assert {side for name, side in sides.items() if name.startswith(kind)} == {"train", "validation"}
    assert clips.sides(found[::-1], 0.25) == sides, "the order of the files decides nothing"


def test_larger_validation_share_only_adds_to_the_held_out_sources(tmp_path):
    found = named(tmp_path, *(f"v{k}.mp4" for k in range(20)))
    held = [{n for n, side in clips.sides(found, share).items() if side == "validation"} for share in (0.1, 0.25, 0.5)]
    assert [len(h) for h in held] == [2, 5, 10]
    assert held[0] < held[1] < held[2]


def test_photograph_is_upright_and_in_colour(tmp_path):
    picture = Image.fromarray(texture(1, 40, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(texture(1, 40, 64)).convert("L").save(tmp_path / "grey.png")
    seen = clips.photograph(tmp_path / "turned.png")
    assert torch.equal(seen, torch.from_numpy(np.rot90(texture(1, 40, 64), -1).copy()).permute(2, 0, 1))
    assert clips.photograph(tmp_path / "grey.png").shape == (3, 40, 64)


def test_broken_photographs_have_their_reasons(tmp_path):
    Image.fromarray(texture(1, 200, 300)).save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("a thousand words")
    expected = {"cut.png": Reason.DAMAGED, "empty.jpg": Reason.EMPTY, "text.jpg": Reason.NOT_PHOTO}
    for name, reason in expected.items():
        with pytest.raises(UnusableError) as error:
            clips.photograph(tmp_path / name)
        assert (name, error.value.reason) == (name, reason)


def test_rendered_clip_depends_on_the_bytes_and_the_number_only():
    photo = torch.from_numpy(texture(1, 96, 160).copy()).permute(2, 0, 1)
    first, camera = clips.rendered(photo, "aa", 0, CLIP)
    again, _ = clips.rendered(photo, "aa", 0, CLIP)
    assert torch.equal(first, again)
    assert camera
    others = [clips.rendered(photo, "aa", 1, CLIP)[0], clips.rendered(photo, "bb", 0, CLIP)[0]]
    assert not any(torch.equal(first, other) for other in others)


def test_motion_is_the_mean_absolute_difference_of_neighbours():
    video = torch.zeros(3, 3, 2, 4, dtype=torch.uint8)
    video[1] = 51
    assert clips.motion(video) == pytest.approx(0.2)


def test_digest_tells_pixels_and_shapes_apart():
    video = torch.zeros(2, 3, 2, 4, dtype=torch.uint8)
    changed = video.clone()
    changed[1, 2, 1, 3] = 1
    assert len({clips.digest(v) for v in (video, changed, video.view(4, 3, 2, 2)[:, :, :, :])}) == 3


def test_files_that_begin_with_a_dot_are_no_sources(tmp_path):
    moving(tmp_path / "b.mkv", 1)
    (tmp_path / ".hidden").mkdir()
    for name in (".DS_Store", ".hidden/a.mp4", "a.png"):
        (tmp_path / name).write_bytes(b"x")
    assert [(s.name, s.is_photo) for s in clips.sources(tmp_path)] == [("a.png", True), ("b.mkv", False)]


def test_pieces_of_a_video_are_on_one_side_when_the_recipe_names_their_scene(tmp_path):
    pieces = [f"v_{what}_g{k:02d}_c{c:02d}.avi" for what in ("Archery", "Biking") for k in range(4) for c in range(6)]
    sides = clips.sides(named(tmp_path, *pieces, *(f"p{k}.png" for k in range(4))), 0.3, r"v_\w+_g\d+")
    assert len(sides) == 52
    for scene in {name.rsplit("_", 1)[0] for name in pieces}:
        assert len({sides[name] for name in pieces if name.startswith(scene)}) == 1, scene
    assert {sides[name] for name in pieces} == {sides[f"p{k}.png"] for k in range(4)} == {"train", "validation"}


def test_photographs_and_videos_of_one_name_do_not_make_folders_count(tmp_path):
    names = [f"{letter}{ending}" for letter in "abcdefgh" for ending in (".png", ".mp4")]
    flat = clips.sides(named(tmp_path, *names), 0.5)
    deep = clips.sides(named(tmp_path, *(f"{name[::-1]}/{name}" for name in names)), 0.5)
    assert {Path(name).name: side for name, side in deep.items()} == flat


def test_links_that_lead_to_no_file_are_sources_with_a_reason(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    moving(outside / "film.mkv", 1)
    data = tmp_path / "data"
    data.mkdir()
    for name, target in (("film.mkv", outside / "film.mkv"), ("more", outside), ("gone.mp4", tmp_path / "gone")):
        (data / name).symlink_to(target)
    (data / "circle.mp4").symlink_to(data / "circle.mp4")
    (data / ".hidden").symlink_to(outside)
    film, gone, more, circle = (Source(name, data / name) for name in ("film.mkv", "gone.mp4", "more", "circle.mp4"))
    assert clips.sources(data) == [circle, film, gone, more]
    assert len(list(clips.windows(film.path, CLIP))) == 5
    for source, told in ((gone, "to nothing"), (circle, "to nothing"), (more, f"to a folder.*{outside}")):
        for read in (clips.photograph, decode.timing):
            with pytest.raises(UnusableError, match=told) as caught:
                read(source.path)
            assert caught.value.reason == Reason.LINK
