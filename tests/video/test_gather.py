import numpy as np
import pytest
import torch
from movies import moving, sound, texture, write_video
from PIL import Image

from mobilevd.artifacts import file_sha256
from mobilevd.errors import DataError, MobileVDError
from mobilevd.settings import Clip, Prepare, Rendered
from mobilevd.video import clips, store
from mobilevd.video.gather import gather
from mobilevd.video.shards import Shard

CLIP = Clip(frames=4, fps=5.0, width=128, height=64)
PREPARE = Prepare(
    windows_per_source=3,
    max_failed_share=0.7,
    min_train_clips=1,
    min_validation_clips=1,
    rendered=Rendered(train_per_photo=2, validation_per_photo=1),
)
# a quarter turn (0x0112), and a width (0x0100) that is text
ODD_EXIF = b"Exif\0\0II*\0\x08\0\0\0\2\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\1\2\0\4\0\0\0abc\0\0\0\0\0"


@pytest.fixture
def data(tmp_path):
    """Three good videos, three photographs of which two are stereo twins."""
    folder = tmp_path / "data"
    (folder / "photos").mkdir(parents=True)
    for k in range(3):
        moving(folder / f"v{k}.mkv", seed=k, seconds=2.8)
    for k, name in enumerate(("a_left", "a_right", "b")):
        Image.fromarray(texture(10 + k, 96, 160)).save(folder / "photos" / f"{name}.png")
    return folder


def break_some(folder):
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "notes.txt").write_text("not a film")
    (folder / "photos" / "bad.jpg").write_text("not a photograph")
    sound(folder / "sound.wav")
    moving(folder / "short.mkv", seed=5, seconds=0.5)
    write_video(folder / "still.mkv", [texture(6)] * 20, [k / 10 for k in range(20)])


def test_rows_stand_in_the_order_of_their_tensors(data, tmp_path):
    found = gather(data, CLIP, PREPARE, tmp_path / "clips")
    for side in ("train", "validation"):
        videos = list(store.clips(tmp_path / "clips" / f"{side}.safetensors"))
        rows = found.side(side)
        assert [clips.digest(video) for video in videos] == [row.pixels_sha256 for row in rows]
        assert [clips.motion(video) for video in videos] == [row.motion for row in rows]
        assert all(row.source_sha256 == file_sha256(data / row.source) for row in rows)
    real = [row for row in found.rows if not row.rendered]
    assert len(real) == 9
    assert sorted({row.start_s for row in real}) == pytest.approx([0.0, 0.8, 1.6])


def test_each_photograph_gives_the_recipes_number_of_rendered_clips(data, tmp_path):
    found = gather(data, CLIP, PREPARE, tmp_path / "clips")
    for name, side in clips.sides(clips.sources(data), PREPARE.validation_share).items():
        rows = [row for row in found.rows if row.source == name]
        if name.startswith("photos"):
            assert len(rows) == (2 if side == "train" else 1)
            assert all(row.rendered and row.camera for row in rows)
        assert {row.split for row in rows} == {side}


def test_photographs_are_no_sources_when_nothing_is_rendered(data, tmp_path):
    (data / "photos" / "bad.jpg").write_text("not a photograph")
    found = gather(data, CLIP, PREPARE.model_copy(update={"rendered": Rendered()}), tmp_path / "clips")
    assert not found.rejected
    assert not any(row.rendered for row in found.rows)


def test_a_second_pass_gives_the_same_rows_and_bytes(data, tmp_path):
    one = gather(data, CLIP, PREPARE, tmp_path / "one")
    two = gather(data, CLIP, PREPARE, tmp_path / "two")
    assert one.rows == two.rows
    for side in ("train", "validation"):
        assert file_sha256(tmp_path / "one" / f"{side}.safetensors") == file_sha256(
            tmp_path / "two" / f"{side}.safetensors"
        )


def test_run_goes_on_with_the_rest_and_names_every_reason(data, tmp_path):
    whole = gather(data, CLIP, PREPARE, tmp_path / "whole")
    break_some(data)
    found = gather(data, CLIP, PREPARE, tmp_path / "clips")
    assert {(item.source, item.reason) for item in found.rejected if item.start_s is None} == {
        ("empty.mp4", "zero bytes"),
        ("notes.txt", "not a video"),
        ("photos/bad.jpg", "not a photograph"),
        ("sound.wav", "audio only"),
        ("short.mkv", "too short"),
        ("still.mkv", "no motion"),
    }
    assert {row.pixels_sha256 for row in found.rows} == {row.pixels_sha256 for row in whole.rows}


def test_file_that_breaks_late_gives_none_of_its_clips(data, tmp_path):
    pictures = [np.roll(texture(7, 128, 256), 9 * k, axis=1) for k in range(60)]
    path = write_video(data / "late.mp4", pictures, [k / 10 for k in range(60)], codec="mpeg4")
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat")
    at = start + (len(content) - start) * 3 // 4
    content[at : at + 3000] = np.random.default_rng(0).bytes(3000)
    path.write_bytes(content)
    found = gather(data, CLIP, PREPARE.model_copy(update={"windows_per_source": 20}), tmp_path / "clips")
    assert [(item.source, item.reason) for item in found.rejected] == [("late.mp4", "truncated or corrupt")]
    assert not [row for row in found.rows if row.source == "late.mp4"]


def test_file_that_breaks_late_takes_no_place_on_a_side(data, tmp_path):
    """Of two usable videos one must validate, whichever of the broken ones would have come first."""
    whole = {source.name for source in clips.sources(data)}
    for k in range(6):
        path = moving(data / f"broken{k}.mkv", seed=20 + k, seconds=2.8)
        content = bytearray(path.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 4000] = np.random.default_rng(k).bytes(4000)
        path.write_bytes(content)
    found = gather(data, CLIP, PREPARE, tmp_path / "clips")
    used = {row.source for row in found.rows}
    sides = clips.sides([s for s in clips.sources(data) if s.name in used], PREPARE.validation_share)
    assert used >= whole
    assert {row.source: row.split for row in found.rows} == sides
    assert sorted(p.name for p in (tmp_path / "clips").iterdir()) == ["train.safetensors", "validation.safetensors"]


def test_still_stretch_is_left_out_and_the_rest_of_its_video_stays(data, tmp_path):
    picture = texture(8)
    pictures = [np.roll(picture, 4 * max(0, k - 10), axis=1) for k in range(33)]
    write_video(data / "begins_still.mkv", pictures, [k / 10 for k in range(33)])
    found = gather(data, CLIP, PREPARE.model_copy(update={"windows_per_source": 8}), tmp_path / "clips")
    rejected = [item for item in found.rejected if item.source == "begins_still.mkv"]
    kept = [row for row in found.rows if row.source == "begins_still.mkv"]
    assert [(item.reason, item.start_s) for item in rejected] == [("no motion", 0.0)]
    assert [row.start_s for row in kept] == pytest.approx([0.8, 1.6, 2.4])


def test_too_many_unusable_files_stop_the_run_and_are_named(data, tmp_path):
    break_some(data)
    strict = PREPARE.model_copy(update={"max_failed_share": 0.3})
    with pytest.raises(DataError, match="4 of 12 files cannot be used so far") as error:
        gather(data, CLIP, strict, tmp_path / "clips")
    assert "short.mkv: too short" in str(error.value)
    assert not list((tmp_path / "clips").glob("*.safetensors"))


def test_a_shard_stops_at_the_file_that_is_one_too_many_for_the_whole_plan(data, tmp_path):
    for k in range(6):
        (data / f"a{k}.mp4").write_bytes(b"")
    names = [*(f"a{k}.mp4" for k in range(6)), "v0.mkv", "v1.mkv"]
    strict = PREPARE.model_copy(update={"max_failed_share": 0.2})

    def gathered(total: int):
        shard = Shard(0, 2, dict.fromkeys(names, ""), dict.fromkeys(names, "train"), total=total)
        return gather(data, CLIP, strict, tmp_path / str(total), shard)

    with pytest.raises(DataError, match="5 of 20 files cannot be used so far") as error:
        gathered(20)
    assert "a5.mp4" not in str(error.value)
    assert not (tmp_path / "20" / "parts").exists(), "no video was cut"
    assert {row.source for row in gathered(30).rows} == {"v0.mkv", "v1.mkv"}, "6 of 30 are not too many"


def test_copies_are_listed_count_as_unusable_and_are_not_read(data, tmp_path):
    files, copies = dict.fromkeys(["v0 (1).mkv", "v0.mkv", "v1.mkv"], ""), {"v0 (1).mkv": "v0.mkv"}
    shard = Shard(0, 1, files, {}, copies)
    found = gather(data, CLIP, PREPARE, tmp_path / "clips", shard)
    assert {(item.source, item.reason) for item in found.rejected} == {("v0 (1).mkv", "same bytes as v0.mkv")}
    assert {row.source for row in found.rows} == {"v0.mkv", "v1.mkv"}
    (data / "v1.mkv").write_bytes(b"")
    with pytest.raises(DataError, match="2 of 3 files cannot be used"):
        gather(data, CLIP, PREPARE.model_copy(update={"max_failed_share": 0.5}), tmp_path / "few", shard)


def test_single_scene_leaves_nothing_to_validate_and_stops_the_run(tmp_path):
    (tmp_path / "data").mkdir()
    moving(tmp_path / "data" / "only.mkv", seed=1)
    with pytest.raises(DataError, match="No clip is left to validation"):
        gather(tmp_path / "data", CLIP, PREPARE, tmp_path / "clips")


def test_clip_file_holds_pixels_of_the_recipes_size(data, tmp_path):
    gather(data, CLIP, PREPARE, tmp_path / "clips")
    video = next(store.clips(tmp_path / "clips" / "validation.safetensors"))
    assert (tuple(video.shape), video.dtype) == ((4, 3, 64, 128), torch.uint8)


def test_real_awkward_files_are_rejected_and_real_clips_are_not(assets, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for path in (assets / "awkward").iterdir():
        (folder / path.name).symlink_to(path)
    for name in ("intel_asl_bird.mkv", "intel_asl_walk.mkv", "nbsphinx_calais1906.ogv"):
        (folder / name).symlink_to(assets / "clips" / name)
    clip = Clip(frames=14, fps=7.0, width=128, height=64)
    found = gather(folder, clip, PREPARE.model_copy(update={"max_failed_share": 0.8}), tmp_path / "clips")
    reasons = {item.source: item.reason for item in found.rejected}
    short = ["decord_unordered.mov", "too_short_48frames.avi", *(f"decord_video_{k}.mov" for k in (0, 90, 180, 270))]
    assert reasons == dict.fromkeys(short, "too short") | {"decord_corrupted.mp4": "truncated or corrupt"}
    assert {row.source for row in found.rows} >= {"hmdb51_non_utf8_metadata.avi", "nbsphinx_calais1906.ogv"}


def test_pieces_of_a_video_are_gathered_on_one_side_when_the_recipe_names_their_scene(tmp_path):
    (tmp_path / "data").mkdir()
    for k in range(6):
        moving(tmp_path / "data" / f"film{k // 3}-Scene-00{k % 3}.mkv", seed=k)
    found = gather(tmp_path / "data", CLIP, PREPARE.model_copy(update={"scene": r"(.*)-Scene"}), tmp_path / "clips")
    sides = {(row.source[:5], row.split) for row in found.rows}
    assert len(sides) == 2
    assert {side for _, side in sides} == {"train", "validation"}


def test_links_without_a_file_and_odd_photographs_are_named_and_the_rest_is_used(data, tmp_path):
    whole = gather(data, CLIP, PREPARE, tmp_path / "whole")
    (data / "more").symlink_to(tmp_path)
    (data / "gone.mp4").symlink_to(tmp_path / "gone.mp4")
    Image.fromarray(texture(30)).save(data / "photos" / "odd.jpg", exif=ODD_EXIF)
    found = gather(data, CLIP, PREPARE, tmp_path / "clips")
    assert {(item.source, item.reason) for item in found.rejected} == {
        ("more", "a link without a file"),
        ("gone.mp4", "a link without a file"),
        ("photos/odd.jpg", "truncated or corrupt"),
    }
    assert {row.pixels_sha256 for row in found.rows} == {row.pixels_sha256 for row in whole.rows}


def test_mistake_of_the_code_names_the_file_that_brings_it_about(data, tmp_path):
    """A recipe that no reader would let pass makes the decoding process fail, on the first file."""
    unreadable = PREPARE.model_copy(update={"windows_per_source": 0})
    with pytest.raises(MobileVDError, match=rf"failed\n  got:     code 1 on .*{clips.sources(data)[0].name}"):
        gather(data, CLIP, unreadable, tmp_path / "clips")
