"""``mobilevd gate``: a report's figures as they are written, each that says nothing refused with its own reason."""

import json
import os
import shutil
from pathlib import Path

import candidates
import pytest
from test_fingerprint import ONE
from typer.testing import CliRunner

from mobilevd import cli, params
from mobilevd.artifacts import MANIFEST, file_sha256, seal, write_json
from mobilevd.errors import IntegrityError, MobileVDError, RecipeError
from mobilevd.evaluation import report
from mobilevd.evaluation.gates import Verdict
from mobilevd.evaluation.report import Figure
from mobilevd.settings import Gate
from mobilevd.stages import gate_reports
from mobilevd.stages.gate import VERDICT_FILE

FIGURES = {"fvd": Figure(value=100.0, unit="", low=90.0, high=120.0), "motion_ratio": Figure(value=0.5, unit="")}
AT_MOST = Gate(metric="student.fvd", max=110.0)
ON_INTERVAL = Gate(metric="student.fvd", max=110.0, by="interval")
OF_CHAMPION = Gate(metric="student.fvd", max_worse=5.0, of="champion")
OF_TEACHER = Gate(metric="student.fvd", max_ratio=1.5, of="teacher.fvd")


def write(path: Path, judged: str | None = None, fvd: object = None, **protocol) -> Path:
    """A report; ``fvd`` replaces its value by anything."""
    report.make(ONE.model_copy(update=protocol), FIGURES, judged).save(path)
    if fvd is not None:
        told = json.loads(path.read_text())
        told["figures"]["fvd"]["value"] = fvd
        path.write_text(json.dumps(told))
    return path


@pytest.fixture
def own(tmp_path) -> Path:
    return write(tmp_path / "report.json")


def reason(verdict: Verdict) -> str:
    [row] = verdict.rows
    assert verdict.passed == row.passed
    return "" if row.passed else row.reason


def test_report_is_held_against_gates_with_its_interval_and_its_clips(own):
    assert reason(gate_reports.run(own, (AT_MOST,))) == ""
    [row] = gate_reports.run(own, (ON_INTERVAL,)).rows
    assert (row.status, row.clips) == ("undecided", 4 * ONE.clips)
    assert reason(gate_reports.run(own, (Gate(metric="distilled.fvd", max=110.0),), "distilled")) == ""


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "is NaN"),
        (float("inf"), "is infinite"),
        (-1.0, "cannot be negative"),
        ("low", "is not a number but 'low'"),
    ],
)
def test_figure_that_is_no_measurement_is_refused_with_its_own_reason(tmp_path, value, said):
    assert said in reason(gate_reports.run(write(tmp_path / "report.json", fvd=value), (AT_MOST,)))


def test_missing_figure_and_no_gates_are_refused(own):
    assert "was not measured" in reason(gate_reports.run(own, (Gate(metric="student.fid", max=1.0),)))
    assert "no gate was given" in reason(gate_reports.run(own, ()))


def test_teacher_of_the_same_protocol_is_a_reference_and_of_another_is_refused(own, tmp_path):
    assert reason(gate_reports.run(own, (OF_TEACHER,), teacher=write(tmp_path / "t.json", fvd=70.0))) == ""
    assert "above 90" in reason(gate_reports.run(own, (OF_TEACHER,), teacher=write(tmp_path / "t.json", fvd=60.0)))
    with pytest.raises(IntegrityError, match="different protocols: fps"):
        gate_reports.run(own, (OF_TEACHER,), teacher=write(tmp_path / "t.json", fps=25.0))


def test_champions_report_is_a_reference_of_the_same_protocol_only(own, tmp_path):
    champion = write(tmp_path / "c.json", fvd=96.0)
    assert reason(gate_reports.run(own, (OF_CHAMPION,), champion=champion)) == ""
    assert "no champion was given" in reason(gate_reports.run(own, (OF_CHAMPION,)))
    other = write(tmp_path / "c.json", fvd=96.0, seed=9)
    assert "another protocol, which differs in seed" in reason(gate_reports.run(own, (OF_CHAMPION,), champion=other))


def test_runs_own_report_is_judged_again_and_devices_of_another_class_are_refused(tmp_path):
    def of_run(name: str, processor: str) -> Path:
        figures = {"student.fvd": 100.0, "profile.host-cpu.p50_ms": 20.0}
        told = {"verdict": "passed", "figures": figures, "fingerprint": {}, "devices": {"host-cpu": processor}}
        write_json(tmp_path / name, told)
        return tmp_path / name

    gates = (AT_MOST, Gate(metric="profile.host-cpu.p50_ms", max_worse=1.0, of="champion"))
    one, other = of_run("one.json", "x86"), of_run("other.json", "arm")
    assert gate_reports.run(one, gates, champion=one).passed
    told = gate_reports.run(one, gates, champion=other).rows[1].reason
    assert "measured on arm, this one on x86" in told


@pytest.fixture
def bundle(tmp_path) -> Path:
    """Its networks were made at 1010 s; its own report has student.fvd at 100."""
    (tmp_path / "sealed").mkdir()
    told = {"figures": {"student.fvd": 100.0}}
    return candidates.bundle(tmp_path / "bundle", seal(tmp_path / "sealed"), candidates.few_bytes, told).path


def test_runs_report_is_the_bundles_own_when_it_is_the_very_file_in_it_whenever_it_was_written(bundle, tmp_path):
    mine = Path(shutil.copyfile(bundle / VERDICT_FILE, tmp_path / "mine.json"))
    for reports, bundles in ((1.0, 2.0e9), (2.0e9, 1.0)):
        os.utime(mine, (reports, reports))
        os.utime(bundle / MANIFEST, (bundles, bundles))
        assert reason(gate_reports.run(mine, (AT_MOST,), model=str(bundle))) == ""
    candidates.edit(mine, figures={"student.fvd": 90.0})
    assert "another artifact of bundle" in reason(gate_reports.run(mine, (AT_MOST,), model=str(bundle)))


def test_runs_report_passes_for_no_bundle_without_one(bundle):
    mine = bundle / VERDICT_FILE
    listed = json.loads((bundle / MANIFEST).read_text())["files"]
    candidates.edit(bundle / MANIFEST, files={name: digest for name, digest in listed.items() if name != VERDICT_FILE})
    assert "another artifact of bundle" in reason(gate_reports.run(mine, (AT_MOST,), model=str(bundle)))


def test_evaluation_is_the_bundles_own_when_it_names_it(bundle, tmp_path):
    mine = write(tmp_path / "mine.json", file_sha256(bundle / MANIFEST))
    os.utime(mine, (1.0, 1.0))
    assert reason(gate_reports.run(mine, (AT_MOST,), model=str(bundle))) == ""
    other = write(tmp_path / "mine.json", "0" * 64)
    assert "another artifact of bundle" in reason(gate_reports.run(other, (AT_MOST,), model=str(bundle)))


def test_evaluation_of_films_has_to_be_younger_than_the_networks_however_old_their_files_are(own, bundle):
    os.utime(bundle / MANIFEST, (2.0e9, 2.0e9))
    for at, told in ((1004.0, "is stale: measured 6 s before"), (1006.0, "")):  # two clocks may be 5 s apart
        os.utime(own, (at, at))
        said = reason(gate_reports.run(own, (AT_MOST,), model=str(bundle)))
        assert told in said
        assert bool(told) == bool(said)


@pytest.mark.parametrize("lacking", ["pipeline.json", MANIFEST])
def test_folder_that_is_no_bundle_is_refused_and_so_is_none(own, bundle, tmp_path, lacking):
    (bundle / lacking).unlink()
    with pytest.raises(MobileVDError, match=rf"no bundle(.|\n)*without {lacking}(.|\n)*--model"):
        gate_reports.run(own, (AT_MOST,), model=str(bundle))
    with pytest.raises(MobileVDError, match=r"no such model(.|\n)*--model"):
        gate_reports.run(own, (AT_MOST,), model=str(tmp_path / "nope"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"figures": 3}'])
def test_file_that_is_no_report_is_refused(tmp_path, text):
    with pytest.raises(IntegrityError, match="There is no such report"):
        gate_reports.read(tmp_path / "x.json", "student")
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"no report with figures(.|\n)*mobilevd evaluate"):
        gate_reports.read(tmp_path / "x.json", "student")


def test_report_whose_protocol_was_edited_is_refused(own):
    told = json.loads(own.read_text())
    told["fingerprint"]["fps"] = 25.0
    own.write_text(json.dumps(told))
    with pytest.raises(IntegrityError, match="fingerprint was changed"):
        gate_reports.read(own, "student")


def test_gates_are_read_from_a_recipe_or_a_file_of_their_own(tmp_path):
    own = tmp_path / "gates.yaml"
    own.write_text("gates: [{metric: student.fvd, max: 110}]")
    assert params.gates(own) == (AT_MOST,)
    own.write_text("gates: []")
    assert params.gates(own) == ()
    recipe = Path(__file__).resolve().parents[2] / "params.yaml"
    assert params.gates(recipe) == params.load(recipe).gates
    own.write_text("gates: [{metric: student.fvd, most: 110}]")
    with pytest.raises(RecipeError, match=r"gates\.0\.most: unknown key"):
        params.gates(own)
    with pytest.raises(RecipeError, match=r"does not exist(.|\n)*--gates FILE"):
        params.gates(tmp_path / "no.yaml")


def test_command_tells_every_gate_and_ends_with_code_one_unless_all_pass(own, tmp_path):
    gates = tmp_path / "gates.yaml"

    def call(text: str, *words: str):
        gates.write_text(text)
        return CliRunner().invoke(cli.app, ["gate", str(own), "--gates", str(gates), *words])

    done = call("gates: [{metric: student.fvd, max: 110}]")
    assert (done.exit_code, done.stdout) == (0, "verdict   passed\n  pass  student.fvd: 100 is at most 110\n")
    done = call("gates: [{metric: student.fvd, max: 110, by: interval}]")
    assert done.exit_code == 1
    assert f"undecided  student.fvd: 100 (90 to 120) may lie on either side of 110; about {4 * ONE.clips} clips" in (
        done.stdout
    )
    told = json.loads(call("gates: []", "--json").stdout)
    assert (told["verdict"], len(told["rows"])) == ("rejected", 1)
