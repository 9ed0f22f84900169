"""Curves in MLflow while a stage trains: each point once, in the run that registering completes, or not at all."""

import time

import candidates
import mlflow_store
import pytest

from mobilevd.artifacts import StageRecord
from mobilevd.registry import live, runs

LOSSES = [(step, 1.0 / step) for step in range(1, 7)]
CURVES = {"loss": LOSSES, "val_loss": [(0, 2.0), (3, 0.5), (6, 0.25)]}


@pytest.fixture
def recipe():
    return candidates.recipe()


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "EVERY_S", 0.0)
    return mlflow_store.use(tmp_path / "store", monkeypatch)


def upto(step: int) -> dict:
    return {name: [point for point in curve if point[0] <= step] for name, curve in CURVES.items()}


def train(told: live.Live, steps: range, rollbacks: int = 0) -> None:
    for step in steps:
        told(upto(step), rollbacks)


def history(store, run_id: str) -> dict:
    return {
        name: sorted((point.step, point.value) for point in store.get_metric_history(run_id, name)) for name in CURVES
    }


def registered(store, recipe, facts: dict) -> list:
    """Register a run of one stage; the ids of its nested runs."""
    record = StageRecord(stage="finetune", recipe_digest=recipe.digest, data_md5="d" * 32, curves=CURVES, facts=facts)
    run_id = runs.log_run(recipe, {"finetune": record}, "passed", [])
    experiment = store.get_run(run_id).info.experiment_id
    found = store.search_runs([experiment], f"tags.mlflow.parentRunId = '{run_id}'")
    return [run.info.run_id for run in found]


def wait_for(condition) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_points_are_there_while_the_stage_trains_and_registering_completes_the_same_run(store, recipe):
    told = live.Live(recipe, "finetune", "flow/7/finetune")
    train(told, range(1, 4))
    wait_for(lambda: told.run_id and history(store, told.run_id) == upto(3))
    train(told, range(4, 6))
    facts = told.end(upto(6), 0)
    assert history(store, told.run_id) == CURVES
    assert registered(store, recipe, facts) == [told.run_id]
    assert history(store, told.run_id) == CURVES
    run = store.get_run(told.run_id)
    assert (run.info.status, run.info.run_name, run.data.metrics["seconds"]) == ("FINISHED", "finetune", 0.0)


def test_after_a_kill_the_same_run_goes_on_and_no_point_is_there_twice(store, recipe):
    killed = live.Live(recipe, "finetune", "flow/7/finetune")
    train(killed, range(1, 5))
    wait_for(lambda: killed.run_id and history(store, killed.run_id) == upto(4))
    again = live.Live(recipe, "finetune", "flow/7/finetune")
    train(again, range(3, 7))  # its checkpoint was older than what was sent
    assert again.end(CURVES, 0) == {runs.LIVE_RUN: killed.run_id}
    assert history(store, killed.run_id) == CURVES


def test_what_was_rolled_back_is_sent_anew(store, recipe):
    told = live.Live(recipe, "finetune", "flow/7/finetune")
    told({"loss": [(1, 9.0), (2, 99.0)], "val_loss": []}, 0)
    wait_for(lambda: told.run_id is not None)
    first = told.run_id
    told.end(CURVES, 1)
    assert told.run_id != first
    assert store.get_run(first).info.lifecycle_stage == "deleted"
    assert history(store, told.run_id) == CURVES


def test_points_that_were_not_sent_are_added_by_registering(store, recipe):
    told = live.Live(recipe, "finetune", "flow/7/finetune")
    train(told, range(1, 3))
    facts = told.end(upto(2), 0)
    assert registered(store, recipe, facts) == [told.run_id]
    assert history(store, told.run_id) == CURVES


def test_another_runs_stage_is_not_taken_over(store, recipe):
    told = live.Live(recipe, "finetune", "flow/7/finetune")
    train(told, range(1, 2))
    facts = told.end(CURVES, 0)
    assert registered(store, recipe, facts) == [told.run_id]
    [reused] = registered(store, recipe, facts)
    assert reused != told.run_id
    assert history(store, reused) == CURVES


def test_without_a_server_the_training_goes_on_and_says_so_once(store, recipe, monkeypatch, capsys):
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        away.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        told = live.Live(recipe, "finetune", "flow/7/finetune")
        train(told, range(1, 6))
        assert told.end(CURVES, 0) == {}
    said = capsys.readouterr().err
    assert said.count("finetune: ") == 1
    assert "MLflow" in said
    [made] = registered(store, recipe, {})
    assert history(store, made) == CURVES
