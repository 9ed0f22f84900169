"""What every flow shares: the recipe, the run's folder, errors without tracebacks, and cards. No steps."""

import time
from collections.abc import Callable
from contextlib import nullcontext

import given
import user  # noqa: F401  (before metaflow)
from machines import FromRecipe
from metaflow import Config, FlowSpec, current
from metaflow.exception import MetaflowException

import mobilevd  # noqa: F401  (its presence here puts the package into remote code packages)
from mobilevd.artifacts import StageRecord
from mobilevd.errors import MobileVDError


class StageFailed(MetaflowException):
    """A stage's own error, shown without a traceback."""

    headline = "Stage failed"


class Rejected(MetaflowException):
    """The run is whole, but its gates did not pass: nothing was registered."""

    headline = "Rejected"


@FromRecipe
class RecipeFlow(FlowSpec):
    """A flow that runs the recipe of ``--config recipe FILE`` (default: params.yaml) stage by stage."""

    recipe = Config("recipe", default=given.DEFAULT, parser=given.recipe, help="The recipe, a YAML file.")

    def checked_recipe(self):
        """The recipe as typed, frozen sections."""
        from mobilevd import params

        return params.check(self.recipe.to_dict(), "--config recipe")

    def run_stage(self, name: str, stage: Callable, folder: str | None = None, **options) -> None:
        """Run one stage on the records so far, keep its record, show it on the step's card.

        What an earlier attempt had finished is not made again.
        """
        import left
        from cards import show
        from gang import leads
        from watched import Watched, tag

        from mobilevd.stages.shared_run import SharedRun

        recipe, records, key = self.checked_recipe(), self.typed_records(), folder or name
        place = SharedRun(self.run_folder, key)
        with Watched(self, key, recipe.digest), self.kept():
            record = self.plainly(left.record, place, recipe, records)
            record = record or self.plainly(self.made, place, stage, recipe, records, options)
        if record is None or not leads():  # the first machine of the gang has it
            return
        record = self.plainly(place.finish, record)
        self.records = {**self.records, key: record.model_dump(mode="json")}
        tag(record)
        show(current.card, record, place.workdir)

    def made(self, place, stage: Callable, recipe, records: dict, options: dict) -> StageRecord | None:
        """What the stage leaves, with the time that it took here; its pictures are shown while it works."""
        from cards import live
        from gang import leads

        began = time.time()
        with place.checkpoints(push=leads()), live(current.card), place.reachable():
            record = stage(recipe, records, place.workdir, **options)
        if record is None:
            return None
        seconds = max(record.seconds, time.time() - began)  # a join counts the tasks that it joins
        return record.model_copy(update={"started_at": began, "seconds": seconds})

    def is_due(self, key: str) -> bool:
        """Whether a stage is still to be run: asked before what it needs is imported. One that holds says why."""
        if key in self.records:
            print(f"{key}: {self.records[key]['facts']['reused']}")
        return key not in self.records

    def share_files(self) -> None:
        """Plan the shards of the data; one that stands for all where the clips are those of an earlier run."""
        from mobilevd.stages import share
        from mobilevd.stages.shared_run import SharedRun

        self.shards = [0]
        if "prepare" not in self.records:
            place = SharedRun(self.run_folder, "prepare", part="plan")
            record = place.finish(self.plainly(share.run, self.checked_recipe(), {}, place.workdir))
            self.records, self.shards = {share.STAGE: record.model_dump(mode="json")}, share.numbers(record)

    def run_shard(self, number: int) -> None:
        """Make one shard's clips and latents, unless an earlier attempt left them whole."""
        if "prepare" in self.records:
            return
        from watched import Watched

        from mobilevd.stages import encode

        recipe, name = self.checked_recipe(), f"{encode.STAGE} {number:05d}"
        with Watched(self, name, recipe.digest), self.kept():
            made = self.plainly(encode.finished, recipe, self.typed_records(), self.run_folder, number)
        self.records = {**self.records, name: made.model_dump(mode="json")}

    def join_shards(self, inputs) -> None:
        """Leave one record, prepare's, in place of the plan's and the shards'."""
        self.merge_artifacts(inputs, exclude=["records"])
        found = {name: record for task in inputs for name, record in task.records.items()}
        parts = [StageRecord(**found[name]) for name in sorted(found) if name.startswith("encode ")]
        self.records = {name: record for name, record in found.items() if not name.startswith("encode ")}
        if self.is_due("prepare"):
            from mobilevd.stages import prepare

            self.run_stage("prepare", prepare.join, parts=parts)
        self.records = {name: record for name, record in self.records.items() if name != "share"}

    def run_training(self, name: str) -> None:
        """Run this task's share of a training stage: all of it, unless there are more GPUs or machines."""
        from gang import training

        if self.is_due(name):
            self.run_stage(name, training(name, self.checked_recipe()))

    def watched(self):
        """Around a step's own work: lines with its ids, and a dead letter when its last attempt failed."""
        from watched import Watched

        return Watched(self, current.step_name, self.checked_recipe().digest)

    def typed_records(self) -> dict[str, StageRecord]:
        """What the stages so far left, by name."""
        return {key: StageRecord(**value) for key, value in self.records.items()}

    def kept(self):
        """What holds while a stage runs; a flow that others may start beside says here that it is alive."""
        return nullcontext()

    @staticmethod
    def plainly(function: Callable, *args, **options):
        """Call ``function``; the project's own errors end the task with their message, others with their traceback."""
        try:
            return function(*args, **options)
        except MobileVDError as error:
            raise StageFailed(str(error)) from None
