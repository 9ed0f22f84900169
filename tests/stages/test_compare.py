"""Two folders of videos: still ones are far and do not move, unusable files are named; for equal ones see test_cli."""

from pathlib import Path

import numpy as np
import pytest
import torch
from movies import moving, texture, write_video

from mobilevd.errors import DataError, IntegrityError
from mobilevd.evaluation import report
from mobilevd.evaluation.fvd import frechet
from mobilevd.evaluation.report import Figure
from mobilevd.settings import Clip
from mobilevd.stages import compare
from mobilevd.stages.extractor import Extractor, of_i3d

FRAMES, FPS = 9, 7.0
CLIP = Clip(frames=FRAMES, fps=FPS)


def pooled(video: torch.Tensor) -> torch.Tensor:
    """What a network of 12 features might see: colours of the first and the last frame, and how they differ."""
    small = torch.nn.functional.avg_pool2d(video[0, [0, -1]].double() / 255, 128)
    return small.flatten()[None]


POOLED = Extractor("p" * 64, "none", pooled)


def against(real: Path, *generated: Path, extractor: Extractor | None = None, **options) -> compare.Compared:
    return compare.folders(real, generated, CLIP, extractor or POOLED, **options)


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
    made = against(real, still, extractor=of_i3d()).report
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
    line = report.make(made.fingerprint, {"fvd_extrapolated": Figure(value=1.0, unit="", measured=False)})
    assert compare.table(line)[0]["figure"] == "fvd_extrapolated (not measured)"


def test_files_of_the_same_names_are_pairs_and_the_same_clips_adhere(real, tmp_path):
    moving(tmp_path / "a.avi.mkv", 1)
    (tmp_path / "more").mkdir()
    (tmp_path / "a.avi.mkv").rename(tmp_path / "a.mp4")
    moving(tmp_path / "more" / "b.mkv", 2, seconds=3.0, rate=10.0)
    row = compare.row(against(real, tmp_path).report)
    assert row["input_adherence"] == pytest.approx(1.0)
    assert (row["fvd"], row["fvd_high"]) == pytest.approx((0.0, 0.0), abs=1e-6)


def test_folder_of_any_number_of_clips_is_held_as_sums(real, still, monkeypatch):
    few = against(real, still)
    monkeypatch.setattr(compare, "KEPT", 1)
    many = against(real, still)
    assert len(many.real.features) == 1
    assert many.report.figures["fvd"].value == pytest.approx(few.report.figures["fvd"].value, rel=1e-9)
    assert many.report.figures["fvd"].low is None, "without features there is no interval, and none is made up"
    assert "kvd" not in many.report.figures


def test_real_features_are_found_again_and_generated_ones_are_not(real, still, tmp_path, monkeypatch):
    monkeypatch.setenv("MOBILEVD_CACHE", str(tmp_path))
    calls = []

    def counted(video):
        calls.append(1)
        return pooled(video)

    reports = [against(real, still, extractor=Extractor("q" * 64, "none", counted)).report for _ in range(2)]
    assert len(calls) == 2 + 2 + 2
    assert reports[0] == reports[1]
    against(real, still, extractor=Extractor("r" * 64, "none", counted))
    assert len(calls) == 10, "another network's features are its own"


def test_references_are_the_real_clips_frozen_and_shuffled(real):
    whole = Extractor("w" * 64, "none", lambda video: video[0, :, :, ::64, ::64].double().flatten()[None])
    made = against(real, real, extractor=whole, references=True).report.figures
    clips = torch.stack([compare.first_clip(path, CLIP) for path in (real / "a.mkv", real / "more" / "b.mkv")])
    seen = torch.cat([whole.features(clip[None]) for clip in clips])
    frozen = torch.cat([whole.features(clip[None, :1].expand(1, FRAMES, -1, -1, -1)) for clip in clips])
    assert made["fvd_frozen"].value == pytest.approx(frechet(seen, frozen))
    assert made["fvd_shuffled"].value > 100
    assert made["fvd"].value == pytest.approx(0.0, abs=1e-6)


def test_diversity_is_told_beside_the_real_clips(real, still):
    figures = against(real, still, diversity=True).report.figures
    assert figures["diversity"].value > 0.05
    assert figures["diversity_ratio"].value == pytest.approx(1.0, abs=0.3), "the same pictures, standing still"


def test_first_clip_of_a_video_is_taken_from_its_start_at_the_asked_rate(tmp_path):
    levels = [np.full((32, 64, 3), k, np.uint8) for k in range(60)]
    write_video(tmp_path / "a.mkv", levels, [k / 10 for k in range(60)])
    clip = Clip(frames=FRAMES, fps=5.0, width=512, height=256)
    video = compare.first_clip(tmp_path / "a.mkv", clip)
    assert video.shape == (FRAMES, 3, 256, 512)
    assert video[:, 0, 0, 0].tolist() == [2 * k for k in range(FRAMES)]


def never(video: torch.Tensor) -> torch.Tensor:
    raise AssertionError("features were computed before the refusal")


UNSEEN = Extractor("p" * 64, "none", never)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_videos_are_refused_before_anything_is_computed(real, tmp_path, count):
    for seed in range(count):
        moving(tmp_path / f"{seed}.mkv", seed)
    with pytest.raises(DataError, match=f"Too few videos(.|\n)*{count} in {tmp_path}"):
        against(real, tmp_path, extractor=UNSEEN)


def test_folder_that_is_not_there_is_refused(real, tmp_path):
    with pytest.raises(DataError, match=r"no such folder(.|\n)*nowhere(.|\n)*--generated"):
        against(real, tmp_path / "nowhere", extractor=UNSEEN)


def test_every_file_that_cannot_be_used_is_named_and_none_is_left_out(real, tmp_path):
    moving(tmp_path / "a.mkv", 1)
    moving(tmp_path / "short.mkv", 2, seconds=0.5)
    (tmp_path / "notes.txt").write_text("about these videos")
    with pytest.raises(DataError, match=r"(?s)^2 of 3 videos.*notes\.txt: not a video.*short\.mkv: too short.*1\.14 s"):
        against(real, tmp_path, extractor=UNSEEN)


def test_report_of_another_protocol_is_refused_before_anything_is_computed(real, still):
    earlier = against(real, still).report
    other = Extractor("o" * 64, "none", never)
    with pytest.raises(IntegrityError, match="different protocols: crop, extractor, fps, width\n"):
        compare.folders(real, [still], Clip(frames=FRAMES, fps=8.0, width=256), other, earlier=earlier)


def test_report_on_other_real_clips_is_refused_before_the_generated_ones_are_seen(real, still, tmp_path, monkeypatch):
    monkeypatch.setenv("MOBILEVD_CACHE", str(tmp_path))
    earlier, seen = against(real, still).report, []

    def counted(video):
        seen.append(1)
        return pooled(video)

    with pytest.raises(IntegrityError, match="different protocols: real\n"):
        against(still, real, extractor=Extractor("p" * 64, "none", counted), earlier=earlier)
    assert len(seen) == 2, "the real clips' features alone"


def test_two_folders_of_one_input_are_compared_clip_by_clip(real, still, tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        moving(tmp_path / name / "x.mkv", 5 if name == "one" else 6)
        moving(tmp_path / name / "y.mkv", 1)
    figures = against(real, tmp_path / "one", tmp_path / "other", still).report.figures
    own, others = (against(real, tmp_path / name).report.figures["fvd"].value for name in ("one", "other"))
    assert figures["fvd_minus_other"].value == pytest.approx(own - others)
    assert figures["fvd_minus_other"].low < own - others < figures["fvd_minus_other"].high
    assert "fvd_minus_still" not in figures, "files of other names are other inputs"
