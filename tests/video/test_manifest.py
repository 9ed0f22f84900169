from dataclasses import replace

from mobilevd.video import manifest
from mobilevd.video.manifest import Rejected, Row

ROW = Row("v/a.mp4#0", "v/ä.mp4", "aa", "train", False, "", 2.0, 7.0, 14, 512, 256, 0.1 + 0.2, "bb")


def test_lists_written_and_read_again_are_equal(tmp_path):
    rejected = [Rejected("b.mp4", "zero bytes"), Rejected("c.mp4", "no motion", "motion 0", 4.0)]
    manifest.write(tmp_path, [ROW], rejected)
    assert manifest.rows(tmp_path) == [ROW]
    assert manifest.rejected(tmp_path) == rejected


def test_lists_in_shards_are_read_as_one_in_their_order(tmp_path):
    second = replace(ROW, clip_id="v/b.mp4#0", split="validation")
    manifest.write(tmp_path / "00001", [second], [Rejected("b.mp4", "zero bytes")])
    manifest.write(tmp_path / "00000", [ROW], [])
    assert manifest.rows(tmp_path) == [ROW, second]
    assert manifest.rejected(tmp_path) == [Rejected("b.mp4", "zero bytes")]


def test_a_shard_without_a_clip_leaves_a_list_of_the_same_columns(tmp_path):
    manifest.write(tmp_path, [], [])
    empty = manifest.joined([(tmp_path / manifest.CLIPS).read_bytes()])
    assert (len(empty), empty.schema) == (0, manifest.table([ROW]).schema)
