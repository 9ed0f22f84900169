"""A model is made again from its own recipe and its data, and what differs is told by name."""

from pathlib import Path

import pytest
import tiny_svd
import torch
import yaml
from movies import moving
from typer.testing import CliRunner

from mobilevd import cli, params
from mobilevd.artifacts import write_json
from mobilevd.errors import IntegrityError, MobileVDError
from mobilevd.stages import finetune, gate, lineage, prepare, replay
from mobilevd.stages.replay import Replayed

OPTIM = {"lr": 1.0e-4}
ADVERSARIAL = {"steps": 1, "generator": OPTIM, "discriminator": OPTIM}


def write(folder: Path, recipe, records: dict, **told) -> None:
    """What a bundle says of itself, without its networks."""
    stages = {n: {"artifacts": {k: a.sha256 for k, a in r.artifacts.items()}} for n, r in records.items()}
    own = {"recipe": {"sha256": recipe.digest}, "data_md5": records["prepare"].data_md5, "stages": stages}
    write_json(folder / lineage.LINEAGE, own | told)
    write_json(folder / lineage.REPORT, {"figures": gate.merge(records)})
    (folder / lineage.RECIPE).write_text(yaml.safe_dump(recipe.model_dump(mode="json")))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The recipe and the records of a real, tiny run up to finetuning, and the folder that tells of it."""
    home = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MOBILEVD_CACHE", str(home / "cache"))
        (home / "data").mkdir()
        for seed in range(2):
            moving(home / "data" / f"v{seed}.mkv", seed, seconds=1.5, size=(64, 64))
        recipe = params.check(
            {
                "name": "tiny",
                "base": str(tiny_svd.write_base(home / "base", frames=3)),
                "clip": {"frames": 3, "fps": 5.0, "width": 64, "height": 64},
                "prepare": {"data": str(home / "data"), "pin": None, "min_train_clips": 1, "min_validation_clips": 1},
                "finetune": {"steps": 1, "optim": OPTIM, "validate_every": 1},
                "distill": {"adversarial": ADVERSARIAL},
                "prune": {"keep": 1, "adversarial": ADVERSARIAL},
                "funnel": {"adversarial": ADVERSARIAL},
                "gates": [{"metric": "student.fvd", "max": 1.0}],
            }
        )
        records = {"prepare": prepare.run(recipe, {}, home / "run" / "prepare")}
        records["finetune"] = finetune.run(recipe, records, home / "run" / "finetune")
        write(home / "bundle", recipe, records)
        yield recipe, records, home


@pytest.mark.slow
def test_same_machine_makes_every_artifact_again_to_the_bit(made, tmp_path):
    words = ["replay", str(made[2] / "bundle"), str(tmp_path / "again"), "--upto", "finetune"]
    told = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    assert told.stdout.splitlines()[:2] == ["prepare: same digests", "finetune: same digests"]
    assert "agrees: every artifact has the same digest" in told.stdout


@pytest.mark.slow
def test_another_number_of_threads_is_told_as_the_reason(made, tmp_path):
    recipe, records, _ = made
    now = records["finetune"].facts["threads"]
    assert now == str(torch.get_num_threads())
    write(tmp_path / "bundle", recipe, records)
    stated = lineage.read(tmp_path / "bundle")
    stated["stages"]["finetune"] = {"artifacts": {"network": "0" * 64}, "threads": "7"}
    write_json(tmp_path / "bundle" / lineage.LINEAGE, stated)
    replayed = list(replay.run(str(tmp_path / "bundle"), tmp_path / "again", "finetune"))
    assert (replayed[0].why, replayed[1].artifacts) == ("", replay.OTHER)
    assert replayed[1].why.startswith(f"7 threads before, {now} now")
    assert "OMP_NUM_THREADS=7" in replayed[1].why


def test_other_artifact_and_other_figure_are_told_by_name(made):
    _, records, _ = made
    stages = {"finetune": {"artifacts": {"network": "0" * 64}}}
    assert replay._artifacts(records["finetune"], {"stages": stages}) == replay.OTHER
    before = gate.merge(records)
    assert replay._differing(records["finetune"], before, 0.0) == {}
    off = before | {"finetune.tflops": 2 * before["finetune.tflops"]}
    assert list(replay._differing(records["finetune"], off, 0.4)) == ["finetune.tflops"]
    assert replay._differing(records["finetune"], off, 0.6) == {}
    del off["finetune.tflops"]
    assert list(replay._differing(records["finetune"], off, 0.6)) == ["finetune.tflops"]


def test_verdict_is_by_digests_or_else_by_figures():
    same, other = Replayed("prepare", replay.SAME, {}), Replayed("finetune", replay.OTHER, {})
    off = Replayed("distill", replay.OTHER, {"student.fvd": (1.0, 2.0)})
    assert replay.verdict([same]) == (True, "every artifact has the same digest")
    assert replay.verdict([same, other]) == (True, "digests differ, and every figure agrees")
    assert replay.verdict([same, other, off]) == (False, "digests differ, and so do student.fvd")


def test_data_that_is_not_the_models_is_refused(made, tmp_path):
    recipe, records, _ = made
    write(tmp_path / "bundle", recipe, records, data_md5="e" * 32)
    with pytest.raises(IntegrityError, match="data here is not the model's"):
        list(replay.run(str(tmp_path / "bundle"), tmp_path / "again", "prepare"))


def test_stage_that_is_none_is_refused(tmp_path):
    told = CliRunner().invoke(cli.app, ["replay", str(tmp_path), str(tmp_path), "--upto", "profile"])
    assert isinstance(told.exception, MobileVDError)
