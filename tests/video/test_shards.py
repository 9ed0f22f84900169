"""Every file is in exactly one shard, and its side does not depend on the shard."""

import importlib.util
from pathlib import Path

import pytest

from mobilevd.settings import Prepare, Rendered
from mobilevd.video import clips, shards
from mobilevd.video.clips import Source

ROOT = Path(__file__).resolve().parents[2]
FILES = {f"v{k}.mp4": f"md5 {k}" for k in range(10)} | {"b_left.mp4": "l", "a/b_right.mp4": "r"}
PREPARE = Prepare(files_per_shard=5)


def planned(tmp_path: Path, files: dict[str, str], prepare: Prepare) -> list[shards.Shard]:
    plan = shards.plan(files, prepare)
    shards.write(plan, prepare, tmp_path)
    of = shards.count(plan, prepare)
    return [shards.read((tmp_path / shards.file(k)).read_bytes(), k, of) for k in range(of)]


def test_every_file_is_in_one_shard_in_the_order_of_the_names(tmp_path):
    found = planned(tmp_path, FILES, PREPARE)
    assert [(shard.number, shard.of, len(shard.files)) for shard in found] == [(0, 3, 5), (1, 3, 5), (2, 3, 2)]
    assert [name for shard in found for name in shard.files] == sorted(FILES)
    assert {name: md5 for shard in found for name, md5 in shard.files.items()} == FILES
    assert [shard.folder for shard in found] == ["00000", "00001", "00002"]


def test_the_benchmark_of_a_million_plans_lists_and_validates_what_it_is_asked_for(tmp_path):
    spec = importlib.util.spec_from_file_location("shards_benchmark", ROOT / "benchmarks" / "shards.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    told = benchmark.run(2500, Prepare(files_per_shard=1000), tmp_path)
    assert (told["files"], told["shards"], told["clips"]) == (2500, 3, 2500)
    assert all(told[f"{part}_peak_mb"] > 0 for part in ("plan", "list", "join", "validate"))


def test_sides_are_those_of_the_whole_folder_whatever_the_shard(tmp_path):
    found = planned(tmp_path, FILES, PREPARE)
    sides = {name: side for shard in found for name, side in shard.sides.items()}
    assert sides == clips.sides([Source(name, Path(name)) for name in FILES], PREPARE.validation_share)
    assert sides["b_left.mp4"] == sides["a/b_right.mp4"]
    assert set(sides.values()) == {"train", "validation"}


def test_a_single_shard_leaves_the_sides_open_and_needs_no_folder(tmp_path):
    [only] = planned(tmp_path, FILES, Prepare())
    assert (only.of, only.folder, set(only.sides.values())) == (1, "", {""})
    assert list(only.files) == sorted(FILES)


def test_a_folder_without_a_file_is_one_empty_shard(tmp_path):
    assert planned(tmp_path, {}, PREPARE) == [shards.Shard(0, 1, {}, {})]


def test_hidden_files_and_unwanted_photographs_are_in_no_shard(tmp_path):
    odd = FILES | {".hidden.mp4": "", "a/.deep/c.mp4": "", "photo.png": ""}
    assert shards.plan(odd, PREPARE).equals(shards.plan(FILES, PREPARE))
    rendered = PREPARE.model_copy(update={"rendered": Rendered(train_per_photo=1)})
    assert "photo.png" in shards.plan(odd, rendered)["source"].to_pylist()


@pytest.mark.parametrize(("count", "shares"), [(1, [1]), (5, [5]), (6, [5, 1])])
def test_no_shard_has_more_files_than_asked(tmp_path, count, shares):
    found = planned(tmp_path, {f"{k}.mp4": "" for k in range(count)}, PREPARE)
    assert [len(shard.files) for shard in found] == shares


def test_sides_go_by_the_scene_that_the_recipe_names(tmp_path):
    prepare = PREPARE.model_copy(update={"scene": r"(g\d)_"})
    files = {f"v_g{group}_c{piece}.avi": "" for group in range(4) for piece in range(4)}
    sides = {name: side for shard in planned(tmp_path, files, prepare) for name, side in shard.sides.items()}
    assert all(len({sides[f"v_g{group}_c{piece}.avi"] for piece in range(4)}) == 1 for group in range(4))
    assert set(sides.values()) == {"train", "validation"}


def test_of_files_with_the_same_bytes_the_one_of_the_shortest_name_is_used(tmp_path):
    again = {"a/v1.mp4": FILES["v1.mp4"], "v1 (1).mp4": FILES["v1.mp4"], "v2 copy.mp4": FILES["v2.mp4"]}
    found = planned(tmp_path, FILES | again, PREPARE)
    copied = {"a/v1.mp4": "v1.mp4", "v1 (1).mp4": "v1.mp4", "v2 copy.mp4": "v2.mp4"}
    assert {name: other for shard in found for name, other in shard.copies.items()} == copied
    assert {name for shard in found for name in shard.used} == FILES.keys()
    assert {item.source: item.reason for shard in found for item in shard.rejected} == {
        name: f"same bytes as {other}" for name, other in copied.items()
    }
    alone = shards.taken(shards.plan(FILES, PREPARE)).sides
    sides = {name: side for shard in found for name, side in shard.sides.items()}
    assert sides == alone | dict.fromkeys(copied, ""), "a copy takes no place on a side"


def test_empty_files_and_files_of_unknown_bytes_are_no_copies():
    assert shards.copies({"a": shards.EMPTY, "b": shards.EMPTY, "c": "", "d": ""}) == {}


def test_a_plan_without_a_copy_is_written_as_it_always_was():
    plan = shards.plan(FILES, PREPARE, brought=False)
    assert plan.column_names == ["source", "md5", "side"]
    assert set(plan["md5"].to_pylist()) == {""}
