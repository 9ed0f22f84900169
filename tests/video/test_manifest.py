from mobilevd.video import manifest
from mobilevd.video.manifest import Rejected, Row

ROW = Row("v/a.mp4#0", "v/ä.mp4", "aa", "train", False, "", 2.0, 7.0, 14, 512, 256, 0.1 + 0.2, "bb")


def test_lists_written_and_read_again_are_equal(tmp_path):
    rejected = [Rejected("b.mp4", "zero bytes"), Rejected("c.mp4", "no motion", "motion 0", 4.0)]
    manifest.write(tmp_path, [ROW], rejected)
    assert manifest.rows(tmp_path) == [ROW]
    assert manifest.rejected(tmp_path) == rejected


def test_duration_runs_to_the_end_of_the_last_frame():
    assert ROW.duration_s == 2.0
