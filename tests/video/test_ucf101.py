"""UCF-101's manifest: the official split, the same clips everywhere, and a reason for every video left out."""

from pathlib import Path

import av
import pytest
import torch
import ucf

from mobilevd.errors import DataError, IntegrityError
from mobilevd.settings import Clip
from mobilevd.video import ucf101


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return ucf.lay(tmp_path_factory.mktemp("ucf"))


def listed(data: Path, fps: float = 7.0, **options) -> ucf101.Manifest:
    return ucf101.listed(data, "testlist01", Clip(fps=fps), **options)


def test_every_video_of_the_split_gives_a_clip_or_a_reason(data, tmp_path):
    found = listed(data)
    assert [line.video for line in found.clips] == sorted(ucf.VIDEOS)
    assert found.left_out.keys() == {ucf.SHORT}
    assert found.left_out[ucf.SHORT].startswith("too short (no picture at")
    assert listed(data, fps=25.0).left_out == {}
    found.save(tmp_path / "m.jsonl")
    assert ucf101.read(tmp_path / "m.jsonl") == found


def test_training_lists_have_numbers_behind_the_names(data):
    assert len(ucf101.listed(data, "trainlist01", Clip()).clips) == len(ucf.VIDEOS)


@pytest.mark.parametrize("fps", [7.0, 25.0])
def test_frames_are_those_at_the_timestamps_from_the_first_picture(data, fps):
    found = listed(data, fps)
    k = [line.video for line in found.clips].index("Biking/v_Biking_g01_c01.avi")
    clip = ucf101.frames(data, found, k)
    assert clip.shape == (14, 3, 240, 320)
    with av.open(str(data / found.clips[k].video)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    expected = [pictures[int(25 * f / fps + 1e-6)] for f in range(14)]
    assert torch.equal(clip, torch.stack([torch.from_numpy(p).permute(2, 0, 1) for p in expected]))


def test_fewer_videos_are_spread_over_the_split(data):
    kept = [line.video for line in listed(data, fps=25.0, at_most=2).clips]
    assert kept == [min(ucf.VIDEOS), max([*ucf.VIDEOS, ucf.SHORT])]


def test_video_that_is_not_the_manifests_is_refused(data):
    found = listed(data)
    other = ucf101.Manifest(**{**vars(found), "clips": (ucf101.Line(found.clips[0].video, "0" * 64),)})
    with pytest.raises(IntegrityError, match="not the manifest's"):
        ucf101.frames(data, other, 0)
    with pytest.raises(IntegrityError, match="no file"):
        ucf101.frames(data.parent, found, 0)


def test_unknown_split_missing_list_missing_video_and_no_manifest_are_refused(data, tmp_path):
    with pytest.raises(DataError, match="testlist03"):
        ucf101.listed(data, "test1", Clip())
    with pytest.raises(DataError, match=r"testlist02\.txt"):
        ucf101.listed(data, "testlist02", Clip())
    (data.parent / "ucfTrainTestlist" / "testlist03.txt").write_text("Archery/v_Archery_g09_c01.avi\n")
    with pytest.raises(DataError, match="v_Archery_g09_c01"):
        ucf101.listed(data, "testlist03", Clip())
    (tmp_path / "m.jsonl").write_text("not json")
    with pytest.raises(IntegrityError, match="no manifest of clips"):
        ucf101.read(tmp_path / "m.jsonl")
