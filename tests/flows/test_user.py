"""A flow starts for whoever starts it, root in a container too, and from wherever: its notes lie with the runs."""

import os
import subprocess
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parents[2] / "flows"
FLOWS = sorted(HOME.glob("*_flow.py"))
NOTES, CARDS = "METAFLOW_DATASTORE_SYSROOT_LOCAL", "METAFLOW_CARD_LOCALROOT"
SMALL = f"""
import sys
sys.path.insert(0, {str(HOME)!r})
import user
from metaflow import FlowSpec, card, step


class SmallFlow(FlowSpec):
    @card
    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    SmallFlow()
"""


def test_every_flow_starts_as_root_without_a_name():
    named = ("METAFLOW_USER", "USERNAME", "SUDO_USER")
    nameless = {name: value for name, value in os.environ.items() if name not in named} | {"USER": "root"}
    begun = [
        subprocess.Popen([sys.executable, flow, "show"], env=nameless, text=True, stdout=-1, stderr=-1)
        for flow in FLOWS
        if flow.name != "base_flow.py"
    ]
    said = {process.args[1].name: process.communicate(timeout=300)[0] for process in begun}
    assert len(said) == 5
    assert [name for name, shown in said.items() if "Step start" not in shown] == []


def environment(**variables: object) -> dict[str, str]:
    """This process's variables without what says where notes lie, and these."""
    named = (NOTES, CARDS, "MOBILEVD_RUNS")
    kept = {name: value for name, value in os.environ.items() if name not in named}
    return kept | {"METAFLOW_USER": "tests"} | {name: str(value) for name, value in variables.items()}


def test_a_run_and_its_card_are_found_from_another_folder_than_it_was_started_in(tmp_path):
    (tmp_path / "small.py").write_text(SMALL)
    (tmp_path / "project").mkdir()
    for folder, words in (("here", ["run"]), ("there", ["card", "get", "start"]), ("there", ["resume", "end"])):
        (tmp_path / folder).mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, tmp_path / "small.py", *words],
            cwd=tmp_path / folder,
            env=environment(MOBILEVD_HOME=tmp_path / "project"),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        assert not list((tmp_path / folder).iterdir())
    assert len(list((tmp_path / "project" / ".metaflow").rglob("*.html"))) == 1


def places(folder: Path, **variables: object) -> list[str]:
    """Where notes and cards lie, as Metaflow understands it after ``import user`` in ``folder``."""
    script = (
        "import user; from metaflow import metaflow_config as c; print(c.DATASTORE_SYSROOT_LOCAL, c.CARD_LOCALROOT)"
    )
    known = environment(PYTHONPATH=HOME, MOBILEVD_HOME=folder / "project", **variables)
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, env=known, capture_output=True, text=True)
    return done.stdout.split()


def test_a_place_of_the_users_own_is_kept_and_a_task_elsewhere_works_where_metaflow_put_it(tmp_path):
    project, own = tmp_path / "project", tmp_path / "own"
    assert places(tmp_path) == [str(project), str(project / ".metaflow")]
    assert places(tmp_path, **{NOTES: own}) == [str(own), str(own / ".metaflow")]
    assert places(tmp_path, **{CARDS: own}) == [str(project), str(own)]
    for variable in ("METAFLOW_KUBERNETES_WORKLOAD", "AWS_BATCH_JOB_ID"):
        assert places(tmp_path, **{variable: "1"}) == ["None", "None"]
