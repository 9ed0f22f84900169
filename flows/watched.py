"""A task watched: lines with its ids, tags by which its run is found, a dead letter when its last attempt failed."""

import os
import time

from metaflow import Run, current

from mobilevd import alerts, journal
from mobilevd.artifacts import StageRecord


class Watched:
    """A ``with`` block around a stage of the task that runs."""

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
        last = current.retry_count >= _retries(self.flow)
        journal.say("stage failed", seconds=seconds, error=f"{kind.__name__}: {error}", last_attempt=last)
        if last and isinstance(error, Exception):
            journal.say("dead letter", address=alerts.dead_letter(*self._letter(f"{kind.__name__}: {error}")))

    def _letter(self, error: str) -> tuple[str, str, dict]:
        made = {name: record.get("artifacts", {}) for name, record in self.flow.records.items()}
        facts = {"task": current.pathspec, "error": error, "attempts": current.retry_count + 1, "recipe": self.recipe}
        facts |= {
            "made": made,
            "at": time.time(),
            "again": f"{current.flow_name}: resume --origin-run-id {current.run_id}",
        }
        return self.flow.run_folder, f"{current.step_name}-{current.task_id}", facts


def tag(record: StageRecord) -> None:
    """Tags by which one query finds every run of a recipe, of data, of a version."""
    tags = [f"recipe:{record.recipe_digest[:12]}", f"data:{record.data_md5[:12]}"]
    if (version := record.facts.get("version", "none")) != "none":
        tags.append(f"version:{record.facts['model']}:{version}")
    if "METAFLOW_KUBERNETES_WORKLOAD" in os.environ or "AWS_BATCH_JOB_ID" in os.environ:
        journal.say("tags", tags=tags)  # without a metadata service a task elsewhere cannot change its run's tags
        return
    Run(f"{current.flow_name}/{current.run_id}", _namespace_check=False).add_tags(tags)


def _retries(flow) -> int:
    """How often the step is tried again."""
    decorators = getattr(flow, current.step_name).decorators
    return max((int(d.attributes["times"]) for d in decorators if d.name == "retry"), default=0)
