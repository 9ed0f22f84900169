"""The promotion as a flow: a version that animates becomes champion; a refusal ends with an error code."""

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import candidates
import metaflow_store
import mlflow_store
import pytest
import receiver
import tiny_svd
import yaml

from mobilevd import alerts
from mobilevd.registry import versions
from mobilevd.stages import promote

TOKEN = "hf_" + "aB3" * 11
FLOW = str(Path(__file__).resolve().parents[2] / "flows" / "promote_flow.py")


@pytest.fixture
def store(tmp_path, monkeypatch):
    metaflow_store.use(tmp_path, monkeypatch)
    monkeypatch.delenv(versions.LEDGER, raising=False)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(candidates.recipe().model_dump(mode="json")))
    return mlflow_store.use(tmp_path / "store", monkeypatch)


@pytest.fixture
def heard(store, monkeypatch):
    """The events that the flow sends, as if it were deployed: of each its body, and the ledger when it came."""
    events = []

    def take(_, body):
        events.append((json.loads(body), promote.ledger("mobilevd").history()))

    with receiver.listening(take) as address:
        for name in (alerts.WEBHOOK, "METAFLOW_ARGO_EVENTS_WEBHOOK_URL"):
            monkeypatch.setenv(name, address)
        monkeypatch.setenv("ARGO_WORKFLOW_TEMPLATE", "promoteflow")
        yield events


def run(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, FLOW, "--config", "recipe", "recipe.yaml", *words], capture_output=True, text=True, timeout=600
    )


def tagged(*tags: str) -> list[str]:
    """The flows of the runs that carry all these tags, found as the documentation says."""
    script = "from metaflow import Metaflow, namespace; namespace(None); import sys\n"
    script += "print(*(flow.id for flow in Metaflow() for run in flow.runs(*sys.argv[1:])))"
    done = subprocess.run([sys.executable, "-c", script, *tags], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()


def kept(folder: Path) -> Iterator[bytes]:
    """Every file that the flow and the stores left, unpacked."""
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            yield gzip.decompress(data) if data[:2] == b"\x1f\x8b" and path.suffix != ".tgz" else data


@pytest.mark.slow
def test_a_version_that_animates_becomes_champion_and_a_second_run_finds_no_candidate(store, heard, tmp_path):
    version = candidates.offer(tmp_path / "run", tiny_svd.write_bundle)
    done = run("run", "--version", version, "--why", f"first of all, with {TOKEN}")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    [entry] = promote.ledger("mobilevd").history()
    assert (entry.to_version, entry.why) == (version, "first of all, with ***")
    assert entry.line in done.stdout
    assert TOKEN.encode() not in b"".join(kept(tmp_path))
    assert b"first of all" in b"".join(kept(tmp_path))
    assert versions.aliases("mobilevd") == {"champion": version}
    (metaflows, then), (webhooks, afterwards) = heard
    assert (metaflows["name"], metaflows["payload"]["to_version"]) == ("mobilevd-champion", version)
    assert (webhooks["event"], webhooks["to_version"]) == ("mobilevd.champion", version)
    assert then == afterwards == [entry], "the ledger had it before anyone was told"
    assert tagged(f"version:mobilevd:{version}", f"champion:mobilevd:{version}") == ["PromoteFlow"]
    again = run("run")
    assert again.returncode != 0
    assert "This version is the champion already" in again.stdout + again.stderr
    assert promote.ledger("mobilevd").history() == [entry]
    assert len(heard) == 2, "a refusal is told to nobody"


def test_every_step_says_what_it_does(store):
    shown = " ".join(run("show").stdout.split())
    assert all(words in shown for words in ("Choose the version", "Re-hash the bundle", "next entry", "webhook"))
