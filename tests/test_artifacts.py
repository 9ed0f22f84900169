"""What was sealed is what is read: any byte, file or manifest entry that differs is refused by name."""

import json
import math
import os

import pytest
from pydantic import ValidationError

from mobilevd import artifacts
from mobilevd.artifacts import MANIFEST, Artifact, StageRecord
from mobilevd.errors import IntegrityError


@pytest.fixture
def folder(tmp_path):
    """Two files, one of them in a folder of its own, and one that was being written."""
    home = tmp_path / "sealed"
    (home / "unet").mkdir(parents=True)
    (home / "unet" / "weights.bin").write_bytes(bytes(range(256)) * 5000)
    (home / "card.md").write_text("text")
    (home / "aside.part").write_text("half")
    return home


def test_sealed_folder_verifies_and_its_digest_is_the_manifests(folder):
    sealed = artifacts.seal(folder)
    artifacts.verify(folder, sealed.sha256)
    assert sealed.path == folder
    listed = json.loads((folder / MANIFEST).read_text())["files"]
    assert set(listed) == {"card.md", "unet/weights.bin"}
    assert sealed.sha256 == artifacts.file_sha256(folder / MANIFEST)


def test_sealing_twice_changes_nothing_and_other_content_has_another_digest(folder):
    first = artifacts.seal(folder)
    assert artifacts.seal(folder) == first
    (folder / "card.md").write_text("texts")
    assert artifacts.seal(folder).sha256 != first.sha256


def test_digest_of_a_file_is_sha256_over_all_its_blocks(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert artifacts.file_sha256(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")
    big = bytes(1 << 20)
    (tmp_path / "one").write_bytes(big + b"a")
    (tmp_path / "two").write_bytes(big + b"b")
    assert artifacts.file_sha256(tmp_path / "one") != artifacts.file_sha256(tmp_path / "two")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_flipped_byte_is_refused_by_the_files_name(folder):
    artifacts.seal(folder)
    flip(folder / "unet" / "weights.bin")
    with pytest.raises(IntegrityError, match=r"changed since it was sealed\n  got:     unet/weights\.bin"):
        artifacts.verify(folder)


def test_missing_file_is_refused_by_name(folder):
    artifacts.seal(folder)
    (folder / "card.md").unlink()
    with pytest.raises(IntegrityError, match=r"A file is missing\n  got:     card\.md"):
        artifacts.verify(folder)


def test_file_that_nobody_listed_is_refused_by_name(folder):
    artifacts.seal(folder)
    (folder / "unet" / "extra.py").write_text("import os")
    with pytest.raises(IntegrityError, match=r"does not list\n  got:     unet/extra\.py"):
        artifacts.verify(folder)


def test_another_manifest_than_the_expected_is_refused(folder):
    sealed = artifacts.seal(folder)
    (folder / "card.md").write_text("texts")
    artifacts.seal(folder)
    artifacts.verify(folder)
    with pytest.raises(IntegrityError, match="The manifest changed"):
        artifacts.verify(folder, sealed.sha256)


def test_folder_without_a_manifest_is_refused(folder):
    with pytest.raises(IntegrityError, match="no manifest"):
        artifacts.verify(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": []}', '{"files": {"card.md": 1}}', "\xff"])
def test_broken_manifest_is_refused_as_such(folder, text):
    artifacts.seal(folder)
    (folder / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(IntegrityError, match=r"manifest|changed"):
        artifacts.verify(folder)


def test_manifest_of_a_folder_inside_is_sealed_like_any_file(folder):
    artifacts.seal(folder / "unet")
    artifacts.seal(folder)
    artifacts.verify(folder)
    flip(folder / "unet" / MANIFEST)
    with pytest.raises(IntegrityError, match=r"unet/manifest\.json"):
        artifacts.verify(folder)


def test_manifest_entry_outside_of_the_folder_is_refused(folder, tmp_path):
    artifacts.seal(folder)
    (tmp_path / "outside").write_text("x")
    entry = {"files": {"../outside": artifacts.file_sha256(tmp_path / "outside")}}
    (folder / MANIFEST).write_text(json.dumps(entry))
    with pytest.raises(IntegrityError, match="leaves its folder"):
        artifacts.verify(folder)


@pytest.fixture
def sharded(tmp_path):
    """Two shards of one name sealed together, beside another file in each."""
    parts = {}
    for name in ("00000", "00001"):
        for file in ("train", "validation"):
            (tmp_path / "made" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "made" / name / f"{file}.bin").write_text(f"{file} {name}")
        parts[name] = artifacts.seal(tmp_path / "made" / name)
    return artifacts.seal_shards(tmp_path / "made", parts)


def test_part_of_a_folder_is_read_without_the_others(folder):
    sealed = artifacts.seal(folder)
    (folder / "unet" / "weights.bin").write_bytes(b"other")
    assert sealed.part("card.md") == folder / "card.md"
    with pytest.raises(IntegrityError, match="changed since"):
        sealed.part("weights.bin")
    with pytest.raises(IntegrityError, match="is missing"):
        sealed.part("eights.bin")


def test_shards_are_parts_by_their_common_name_and_may_be_asked_for_the_first_alone(sharded):
    (sharded.path / "00001" / "train.bin").write_text("other")
    found = artifacts.shards(sharded.part("validation.bin"))
    assert [path.read_text() for path in found] == ["validation 00000", "validation 00001"]
    assert artifacts.shards(sharded.part("train.bin", first=True))[0].read_text() == "train 00000"
    with pytest.raises(IntegrityError, match="00001"):
        sharded.part("train.bin")


def test_artifact_that_is_gone_is_named(tmp_path):
    with pytest.raises(IntegrityError, match=r"An artifact is gone\n  got:     .*nowhere"):
        _ = Artifact(uri=str(tmp_path / "nowhere"), sha256="0" * 64).path


def record() -> StageRecord:
    return StageRecord(
        stage="finetune",
        recipe_digest="r" * 64,
        data_md5="d" * 32,
        parents={"prepare": "p" * 64},
        artifacts={"network": Artifact(uri="/runs/1/network", sha256="n" * 64)},
        figures={"finetune.loss": 0.25, "finetune.worst": math.inf},
        facts={"edits": "cross_attention"},
        curves={"loss": [(1, 0.5), (2, 0.25)]},
        pictures={"curves": "pictures/curves.png"},
        tables={"rows": [{"name": "a", "value": None, "share": 0.5}]},
        started_at=1.5,
        seconds=2.5,
        peak_memory_mb=3.5,
    )


def test_record_written_and_read_again_is_equal(tmp_path):
    record().save(tmp_path / "deep" / "record.json")
    text = (tmp_path / "deep" / "record.json").read_text()
    assert StageRecord(**json.loads(text)) == record()
    assert StageRecord(**record().model_dump(mode="json")) == record()


def test_figure_that_is_no_number_stays_one_in_the_file(tmp_path):
    record().model_copy(update={"figures": {"fvd": math.nan}}).save(tmp_path / "record.json")
    assert math.isnan(StageRecord(**json.loads((tmp_path / "record.json").read_text())).figures["fvd"])


def test_record_is_frozen_and_takes_no_unknown_field():
    with pytest.raises(ValidationError, match="frozen"):
        record().stage = "distill"
    with pytest.raises(ValidationError, match="Extra inputs"):
        StageRecord(stage="a", recipe_digest="b", data_md5="c", figure={})


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    artifacts.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        artifacts.write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]
