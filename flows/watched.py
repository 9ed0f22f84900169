"""A task watched: lines with its ids, tags by which its run is found, a dead letter when its last attempt failed."""

import os
import time
from pathlib import Path

from metaflow import Flow, Run, current
from metaflow.exception import MetaflowNotFound

from mobilevd import alerts, journal
from mobilevd.artifacts import StageRecord
from mobilevd.secrecy import sanitised
from mobilevd.stages import plan

TRAINED = ("TrainFlow", "TrainNodesFlow", "RetrainFlow")


class Watched:
    """A ``with`` block around the work of the task that runs."""

    def __init__(self, flow, stage: str, recipe_digest: str):
        self.flow, self.stage, self.recipe = flow, stage, recipe_digest

    def __enter__(self) -> "Watched":
        self.began = time.time()
        journal.start({"run": f"{current.flow_name}/{current.run_id}", "stage": self.stage, "task": current.pathspec})
        journal.say("stage began", attempt=current.retry_count, recipe=self.recipe[:12])
        return self

    def __exit__(self, kind, error, _) -> None:
        seconds = round(time.time() - self.began, 1)
        if error is None:
            journal.say("stage ended", seconds=seconds)
            return
        last, why = current.retry_count >= _retries(self.flow), sanitised(f"{kind.__name__}: {error}")
        journal.say("stage failed", seconds=seconds, error=why, last_attempt=last)
        if last and isinstance(error, Exception):
            journal.say("dead letter", address=alerts.dead_letter(*self._letter(why)))

    def _letter(self, error: str) -> tuple[str, str, dict]:
        made = {name: record.get("artifacts", {}) for name, record in getattr(self.flow, "records", {}).items()}
        facts = {"task": current.pathspec, "error": error, "attempts": current.retry_count + 1, "recipe": self.recipe}
        again = f"python flows/{Path(self.flow.script_name).name} resume --origin-run-id {current.run_id}"
        facts |= {"made": made, "at": time.time(), "again": again}
        folder = getattr(self.flow, "run_folder", plan.run_folder(current.flow_name, current.run_id))
        return folder, f"{current.step_name}-{current.task_id}", facts


def tag(record: StageRecord) -> None:
    """Tags by which one query finds every run of a recipe, of data, of a version; and a line with the same ids."""
    ids = {"recipe": record.recipe_digest[:12], "data": record.data_md5[:12]}
    if (version := record.facts.get("version", "none")) != "none":
        ids["version"] = f"{record.facts['model']}:{version}"
    journal.say("recorded", **ids)
    _add([f"{name}:{value}" for name, value in ids.items()])


def crown(model: str, version: str) -> None:
    """Tag this run, and the runs that the version came of, as those of a champion."""
    made = f"version:{model}:{version}"
    _add([made, f"champion:{model}:{version}"], made)


def _add(tags: list[str], to: str | None = None) -> None:
    """Put tags on this run and, where ``to`` is given, on every training run that carries that tag."""
    if "METAFLOW_KUBERNETES_WORKLOAD" in os.environ or "AWS_BATCH_JOB_ID" in os.environ:
        journal.say("tags", tags=tags)  # without a metadata service a task elsewhere cannot change its run's tags
        return
    Run(f"{current.flow_name}/{current.run_id}", _namespace_check=False).add_tags(tags)
    for flow in TRAINED if to else ():
        try:
            runs = list(Flow(flow, _namespace_check=False).runs(to))
        except MetaflowNotFound:
            continue
        for run in runs:
            run.add_tags(tags)


def _retries(flow) -> int:
    """How often the step is tried again."""
    decorators = getattr(flow, current.step_name).decorators
    return max((int(d.attributes["times"]) for d in decorators if d.name == "retry"), default=0)
