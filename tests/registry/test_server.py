"""Against a real tracking server with passwords, PostgreSQL and S3: the way of a model from its run to its use.

Skipped, saying so, where PostgreSQL is not installed.
"""

import base64
import hmac
import json
import os
import signal
import time
from pathlib import Path

import candidates
import pytest
import receiver
import seaweed
import trackers
from candidates import MODEL
from trackers import PASSWORD, USER

from mobilevd.artifacts import verify as verify_folder
from mobilevd.errors import MobileVDError
from mobilevd.registry import acceptance, tracking, versions
from mobilevd.registry.ledger import champion
from mobilevd.stages import models, promote, verify

pytestmark = pytest.mark.slow
TRACKED = "tracked"  # the bucket of the server alone
SIGNED = "planted-in-the-webhook"
SECRETS = (PASSWORD, seaweed.SECRET, "planted-in-the-database-url", "planted-in-the-environment", SIGNED)
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}


@pytest.fixture(scope="module")
def tracker():
    import boto3

    with pytest.MonkeyPatch.context() as patched, trackers.server(TRACKED) as running:
        seaweed.use(patched)
        boto3.client("s3").create_bucket(Bucket=TRACKED)
        yield running


@pytest.fixture(scope="module")
def hook():
    """A webhook: its address, and of every event its headers, its body, and who was champion when it came."""
    told = []

    def take(headers, body):
        told.append((headers, body, champion(promote.ledger(MODEL).history())))

    with receiver.listening(take) as address:
        yield f"{address}/", told


@pytest.fixture(scope="module", autouse=True)
def offered(tracker, hook, tmp_path_factory):
    """Two versions on the server, the first of them promoted; no test changes them."""
    home = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patched:
        seaweed.use(patched)
        values = {"MLFLOW_TRACKING_URI": tracker.address, "MLFLOW_TRACKING_USERNAME": USER}
        values |= {"MLFLOW_TRACKING_PASSWORD": PASSWORD, versions.LEDGER: "s3://bucket/ledger-of-the-server"}
        values |= {"MOBILEVD_CACHE": str(home / "cache"), "SOME_API_TOKEN": SECRETS[3]}
        for name, value in values.items():
            patched.setenv(name, value)
        for number in range(2):
            candidates.offer(home / str(number), note="num_memory_tokens: 4")
        tracking.connect().create_webhook("champion", hook[0], ["model_version_alias.created"], secret=SIGNED)
        up("1")
        yield home


def up(version: str) -> None:
    promote.run(MODEL, promote.candidate(MODEL, version, "good"), lambda folder: None)


def test_version_on_the_server_is_promoted_verified_fetched_and_rolled_back():
    up("2")
    assert versions.aliases(MODEL) == {"champion": "2", "previous": "1"}
    folder = models.folder(f"models:/{MODEL}@champion")
    verify_folder(folder, versions.find(MODEL, "2").tags["bundle_sha256"])
    links = {link.link: link.state for link in verify.walk(f"models:/{MODEL}/2")}
    assert [links[name] for name in ("weights", "stages", "recipe")] == ["holds"] * 3
    wanted = promote.former(MODEL, None, "it flickers")
    promote.run(MODEL, wanted, lambda folder: None)
    assert versions.aliases(MODEL) == {"champion": "1"}
    assert models.folder(f"models:/{MODEL}@champion") != folder


def test_the_servers_own_webhook_tells_of_every_switch_after_it_was_made(hook):
    before = len(hook[1])
    up("2")
    until = time.monotonic() + 30
    while len(hook[1]) < before + 2 and time.monotonic() < until:
        time.sleep(0.1)
    promote.run(MODEL, promote.former(MODEL, None, "as it was"), lambda folder: None)
    said = [json.loads(body)["data"] for _, body, _ in hook[1][before : before + 2]]
    assert {(event["alias"], event["version"]) for event in said} == {("champion", "2"), ("previous", "1")}
    headers, body, champion_then = hook[1][before]
    assert champion_then == "2", "the ledger had it before anyone was told"
    signed = b".".join([headers["X-MLflow-Delivery-Id"].encode(), headers["X-MLflow-Timestamp"].encode(), body])
    digest = base64.b64encode(hmac.digest(SIGNED.encode(), signed, "sha256")).decode()
    assert headers["X-MLflow-Signature"] == f"v1,{digest}"


def test_a_refused_promotion_tells_nobody(hook):
    before = _settled(hook[1])
    with pytest.raises(MobileVDError, match="no such version"):
        up("999")
    time.sleep(1)
    assert len(hook[1]) == before


def _settled(told: list) -> int:
    """How many events there are once nothing more comes of earlier switches."""
    seen, since = len(told), time.monotonic()
    while time.monotonic() < since + 2:
        if len(told) > seen:
            seen, since = len(told), time.monotonic()
        time.sleep(0.1)
    return seen


def test_damage_in_the_store_is_refused_by_name(tmp_path):
    version = candidates.offer(tmp_path)
    client = tracking.connect()
    experiment = client.get_experiment_by_name(MODEL).experiment_id
    run_id = versions.find(MODEL, version).run_id
    import boto3

    key = f"mlflow/{experiment}/{run_id}/artifacts/model/bundle/unet/weights.safetensors"
    boto3.client("s3").put_object(Bucket=TRACKED, Key=key, Body=b"another network")
    before = len(promote.ledger(MODEL).history())
    with pytest.raises(MobileVDError, match=r"unet/weights\.safetensors"):
        up(version)
    assert len(promote.ledger(MODEL).history()) == before


def test_wrong_password_is_a_clear_error_that_does_not_show_it(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-and-planted")
    with pytest.raises(MobileVDError, match=r"401|not authenticated") as caught:
        versions.newest(MODEL)
    assert "wrong-and-planted" not in str(caught.value)


def test_server_that_is_slow_is_a_clear_error_and_registers_nothing(tracker, monkeypatch):
    known = len(_versions())
    with monkeypatch.context() as patched:
        for name, value in IMPATIENT.items():
            patched.setenv(name, value)
        _stopped(tracker)
    assert len(_versions()) == known


def _stopped(tracker) -> None:
    os.killpg(tracker.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(MobileVDError, match="MLflow does not tell the versions") as caught:
            acceptance.registered(MODEL, "0" * 64)
    finally:
        os.killpg(tracker.process.pid, signal.SIGCONT)
    assert "imed out" in str(caught.value)


def test_store_that_is_full_registers_nothing_and_takes_it_when_there_is_room(tracker, tmp_path, monkeypatch):
    register, known = acceptance.register, len(_versions())

    def when_full(*words):
        with seaweed.full(TRACKED):
            with monkeypatch.context() as patched:
                patched.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
                with pytest.raises(MobileVDError, match=r"did not take the bundle; kept: the bundle, whole") as caught:
                    register(*words)
            assert "no version was created; `mobilevd register --resume` completes it" in str(caught.value)
            assert len(_versions()) == known
        return register(*words)

    monkeypatch.setattr(acceptance, "register", when_full)
    version = candidates.offer(tmp_path)
    assert len(_versions()) == known + 1
    verify_folder(models.folder(f"models:/{MODEL}/{version}"), versions.find(MODEL, version).tags["bundle_sha256"])


def _versions() -> list:
    return list(tracking.connect().search_model_versions(f"name='{MODEL}'"))


def test_planted_secrets_are_in_no_row_object_log_or_file(tracker, offered):
    import boto3
    from sqlalchemy import MetaData, create_engine

    engine = create_engine(tracker.database)
    tables = MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        rows = [repr(row) for table in tables.sorted_tables for row in connection.execute(table.select())]
    engine.dispose()
    client = boto3.client("s3")
    found = []
    for bucket in ("bucket", TRACKED):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        found += [client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys]
    found += [path.read_bytes() for path in Path(offered).rglob("*") if path.is_file()]
    everything = "\n".join(rows).encode() + b"\n".join(found) + tracker.log.read_bytes()
    assert b"num_memory_tokens: 4" in everything
    assert b"student.fvd" in everything
    assert [secret for secret in SECRETS if secret.encode() in everything] == []
