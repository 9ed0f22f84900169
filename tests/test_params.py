"""A recipe is refused whole before anything runs, and the message says what, got, allowed and where."""

import copy
import json
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from small_recipes import put, refusal, smallest

from mobilevd import params, settings
from mobilevd.errors import RecipeError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def values() -> dict:
    return smallest()


def test_the_smallest_recipe_has_the_papers_clip(values):
    clip = params.check(values).clip
    assert (clip.frames, clip.fps, clip.width, clip.height) == (14, 7.0, 512, 256)


def test_unknown_key_is_refused_with_the_keys_allowed_there(values):
    told = refusal(values | {"fintune": {}})
    assert "fintune: unknown key, got {}" in told
    assert "finetune, distill, prune" in told


def test_nested_unknown_key_is_refused_with_its_own_sections_keys(values):
    told = refusal(put(values, "distill.adversarial.generator.learning_rate", 1.0))
    assert "distill.adversarial.generator.learning_rate: unknown key, got 1.0" in told
    assert "allowed here: kind, lr, rates, betas, weight_decay, warmup_steps, schedule, max_grad_norm" in told
    assert "teacher_steps" not in told


def test_unknown_key_of_a_gate_names_the_gate(values):
    told = refusal(put(values, "gates.0.maximum", 3.0))
    assert "gates.0.maximum: unknown key" in told
    assert "max_ratio" in told


def test_number_written_as_text_is_refused_as_yaml_reads_it(values):
    text = yaml.safe_dump(values).replace("lr: 0.0001", "lr: 1e-5", 1)
    with pytest.raises(RecipeError, match=r"got '1e-5'; allowed: input should be a valid number") as error:
        params.parse(text)
    assert "(YAML reads it as text; write 1.0e-05)" in str(error.value)
    assert yaml.safe_load("1.0e-05") == 1e-5
    assert "write 100)" in refusal(put(copy.deepcopy(values), "finetune.steps", "100"))
    assert "write" not in refusal(put(copy.deepcopy(values), "finetune.steps", True))
    assert "write" not in refusal(put(values, "finetune.steps", "many"))


def test_date_is_refused_as_any_other_wrong_type(values):
    told = refusal(yaml.safe_load(yaml.safe_dump(values) + "seed: 2024-01-01"))
    assert "seed: got '2024-01-01'" in told


def test_missing_key_is_named(values):
    del values["finetune"]["optim"]["lr"]
    assert "finetune.optim.lr: missing; it has no default" in refusal(values)


def test_all_mistakes_are_told_at_once(values):
    put(values, "clip.width", 500)
    put(values, "finetune.optim.lr", "1e-5")
    put(values, "oops", 1)
    del values["prune"]["keep"]
    told = refusal(values)
    assert all(f"  {key}: " in told for key in ("clip.width", "finetune.optim.lr", "oops", "prune"))
    assert len(told.splitlines()) == 1 + 4 + 1


def test_a_mistake_inside_of_a_list_is_not_told_as_one_of_the_list_too(values):
    told = refusal(put(values, "gates", [{"metric": "student.fvd"}])).splitlines()
    assert [line.split(":")[0].strip() for line in told] == ["The recipe cannot be run", "gates.0", "where"]
    assert "allowed: value error, give exactly one of max, min" in told[1]
    assert "  gates: got []; allowed: tuple should have at least 1 item" in refusal(put(values, "gates", []))


def test_message_says_what_got_allowed_and_where(values):
    told = refusal(put(values, "clip.width", 500), "recipes/mine.yaml")
    assert told.splitlines() == [
        "The recipe cannot be run",
        "  clip.width: got 500; allowed: input should be a multiple of 64",
        "  where:   recipes/mine.yaml",
    ]


def test_recipe_is_frozen(values):
    recipe = params.check(values)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.finetune.steps = 7


def test_digest_does_not_depend_on_the_order_of_keys_or_on_written_defaults(values):
    turned = {key: values[key] for key in reversed(values)}
    turned["finetune"] = {key: values["finetune"][key] for key in reversed(values["finetune"])}
    spelled = values | {"seed": 0, "clip": {"frames": 14}}
    digests = {params.check(v).digest for v in (values, turned, spelled)}
    assert len(digests) == 1
    assert len(digests.pop()) == 64


ONE_CHOICE = {"apply", "weights", "op"}  # literals of a single value
GO_WITH_ANOTHER = {"keep_tflops", "l1_weight", "rounding", "budget_db"}  # refused beside what is there


def leaves(node, path=()):
    if isinstance(node, dict | list):
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        for key, child in pairs:
            yield from leaves(child, (*path, key))
    else:
        yield path, node


def other(value) -> list:
    if isinstance(value, bool):
        return [not value]
    if value is None:
        return ["changed", 0.5, 1, "emulator"]
    if isinstance(value, int | float):
        return [value + 64, value + 1, value - 1, value * 0.5]
    return [
        "spatial",
        "temporal",
        "average",
        "cosine",
        "constant",
        "uint8",
        "uint16",
        "cpu",
        "bf16",
        "sm3",
        "muon",
        "warn",
        "stop",
        "best",
        "he",
        "csi",
        "all",
        "both",
        "truncated",
        "before",
        "emulator",
        "interval",
        "random",
        "derivative",
        "importance_per_tflop",
        "qnn_dlc",
        "there",
        "aimet",
        "difference",
        "after_downsampler",
        "clip",
        "previous",
        "longest",
        f"{value}x",
    ]


def of_a_device(gate: dict, key: str) -> bool:
    return key == "measured_on" and gate["metric"].startswith("profile.")


def test_digest_says_what_is_made_not_when_or_where(values):
    plain = params.check(values)
    moved = params.check(values | {"retrain": {"cron": "0 2 * * ? *", "promote": "automatic", "lease_hours": 1.0}})
    assert moved.retrain != plain.retrain
    assert moved.digest == plain.digest


@pytest.mark.parametrize(
    ("retrain", "said"),
    [
        ({"cron": "0 2 * *"}, "retrain.cron"),
        ({"timezone": "Europe/Berlin"}, "timezone belongs to cron"),
        ({"event": "mobilevd-data", "after": "IngestFlow"}, "not for both"),
        ({"lease_hours": 0.0}, "retrain.lease_hours"),
    ],
)
def test_a_schedule_that_cannot_be_deployed_is_refused(values, retrain, said):
    with pytest.raises(RecipeError, match=said):
        params.check(values | {"retrain": retrain})


def test_digest_changes_with_every_single_value():
    whole = params.parse((ROOT / "params.yaml").read_text(encoding="utf-8"))
    whole = {key: section for key, section in whole.items() if key not in params.OPERATIONS}
    for stage in ("prune", "funnel"):  # else heads and head_channels go with another stage's
        whole[stage]["adversarial"]["heads_from"] = "new"
    still = whole["distill"].pop("still_start")
    for stage in ("distill", "prune", "funnel"):
        whole[stage]["adversarial"]["sigmas"] = [2.27, 5.0, 700.0]
    plain, seen, unchanged = params.check(whole).digest, set(), []
    for path, value in leaves(whole):
        if path[-1] in {"timeout_minutes", *params.TELLING.get(path[0], ())} or (
            path[0] == "training" and path[-1] in params.HOW
        ):
            continue
        for candidate in other(value):
            changed = copy.deepcopy(whole)
            node = changed
            for part in path[:-1]:
                node = node[part]
            node[path[-1]] = candidate
            try:
                digest = params.check(changed).digest
            except RecipeError:
                continue
            if candidate != value:
                assert digest != plain, path
                seen.add(digest)
                break
        else:
            unchanged.append(".".join(str(p) for p in path))
    assert len(seen) > 80
    whole["distill"]["still_start"] = still
    assert params.check(whole).digest not in seen | {plain}

    unchanged.remove("distill.adversarial.heads_from")  # nothing comes before it
    for stage in ("distill", "prune", "funnel"):
        unchanged.remove(f"{stage}.adversarial.sigmas.2")  # the network starts there
    assert [name for name in unchanged if not (ONE_CHOICE | GO_WITH_ANOTHER) & set(name.split("."))] == [
        f"gates.{i}.{key}"  # a second limit beside the first is refused, and so is "of" or "better" beside a threshold
        for i in range(len(whole["gates"]))
        for key in (*settings.THRESHOLDS, *settings.COMPARISONS, "of", "better", "measured_on")
        if key == "better" or (whole["gates"][i][key] is None and not of_a_device(whole["gates"][i], key))
    ]


def test_digest_does_not_change_with_how_a_machine_computes_the_same():
    """A training whose machine ran out of memory goes on from its checkpoints, cut otherwise."""
    whole = params.parse((ROOT / "params.yaml").read_text(encoding="utf-8"))
    plain = params.check(whole).digest
    whole["training"] |= {"shard": True, "gradient_checkpointing": True, "workers": 3}
    assert set(params.HOW) == {"shard", "gradient_checkpointing", "workers"}
    assert params.check(whole).digest == plain


def test_parsed_recipe_is_plain_json_that_is_read_as_the_same_recipe(values):
    parsed = params.parse(yaml.safe_dump(values))
    assert json.loads(json.dumps(parsed)) == parsed
    assert parsed["evaluate"]["teacher_steps"] == 25
    assert params.check(parsed) == params.check(values)
    assert params.check(parsed).digest == params.check(values).digest


def test_loaded_file_is_the_recipe_and_a_missing_one_is_named(values, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert params.load(path) == params.check(values)
    with pytest.raises(RecipeError, match=r"does not exist\n  got:     .*other\.yaml"):
        params.load(tmp_path / "other.yaml")


@pytest.mark.parametrize("text", ["a: [1", "- just\n- a list", "", "a: \x07", "{[1]: 2}"])
def test_text_that_is_no_mapping_is_refused(text):
    with pytest.raises(RecipeError, match=r"not YAML|not a mapping"):
        params.parse(text)


def test_file_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("name: größe\n".encode("latin-1"))
    with pytest.raises(RecipeError, match="not YAML"):
        params.load(tmp_path / "latin.yaml")


@pytest.fixture
def start(values, tmp_path) -> Path:
    """A file with the smallest recipe, for others to start from."""
    path = tmp_path / "start.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_recipe_from_another_overrides_single_keys_and_replaces_lists(values, start, tmp_path):
    own = {"from": str(start), "name": "own", "prune": {"keep": 3}, "finetune": {"apply": [], "optim": {"lr": 2.0}}}
    put(values, "name", "own")
    put(values, "prune.keep", 3)
    put(values, "finetune.apply", [])
    put(values, "finetune.optim.lr", 2.0)
    assert params.parse(yaml.safe_dump(own)) == params.check(values).model_dump(mode="json")
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")
    assert params.load(tmp_path / "own.yaml") == params.check(values)


def test_recipe_to_start_from_is_found_in_the_project_from_anywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    parsed = params.parse("from: recipes/mobilevd.yaml\nname: own\nseed: 7")
    assert parsed == params.load(ROOT / "recipes" / "mobilevd.yaml").model_dump(mode="json") | {
        "name": "own",
        "seed": 7,
    }


def test_recipes_may_start_from_each_other_in_a_row(values, start, tmp_path):
    (tmp_path / "middle.yaml").write_text(f"from: {start}\nname: middle\nseed: 5\nprune: {{keep: 9}}")
    parsed = params.parse(f"from: {tmp_path / 'middle.yaml'}\nname: top\nprune: {{keep: 2}}")
    assert (parsed["name"], parsed["seed"], parsed["prune"]["keep"]) == ("top", 5, 2)


def test_circle_of_recipes_is_refused_with_its_way(tmp_path):
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{one}.yaml").write_text(f"from: {tmp_path / other}.yaml\nname: {one}")
    with pytest.raises(RecipeError, match=r"in a circle\n  got:     .*a\.yaml → .*b\.yaml → .*a\.yaml"):
        params.load(tmp_path / "a.yaml")


@pytest.mark.parametrize("named", ["recipes/none.yaml", 7, None, "recipes", ["recipes/mobilevd.yaml"]])
def test_recipe_to_start_from_that_is_no_file_is_refused(named):
    with pytest.raises(RecipeError, match="to start from does not exist"):
        params.parse(yaml.safe_dump({"from": named, "name": "own"}))


def test_recipe_from_another_needs_a_name_of_its_own(start):
    with pytest.raises(RecipeError, match="needs its own name"):
        params.parse(f"from: {start}\nseed: 3")


def test_unknown_key_in_either_recipe_is_refused(values, start):
    with pytest.raises(RecipeError, match=r"prune\.keeps: unknown key, got 3"):
        params.parse(yaml.safe_dump({"from": str(start), "name": "own", "prune": {"keeps": 3}}))
    start.write_text(yaml.safe_dump(values | {"oops": 1}), encoding="utf-8")
    with pytest.raises(RecipeError, match="oops: unknown key, got 1"):
        params.parse(f"from: {start}\nname: own")
