"""What an earlier attempt at a step left: the record of a stage that was finished, and that Metaflow never stored."""

from gang import alone
from metaflow import Step, current
from metaflow.exception import MetaflowNotFound

from mobilevd.artifacts import StageRecord
from mobilevd.params import Recipe
from mobilevd.progress import say
from mobilevd.stages.shared_run import SharedRun


def record(place: SharedRun, recipe: Recipe, inputs: dict[str, StageRecord]) -> StageRecord | None:
    """The record that lies in the stage's folder, if it is of this recipe and these inputs; none that is to be remade.

    Errors: MobileVDError when the store does not answer.
    """
    found = place.left(recipe.digest, inputs, alone())
    if found is None or _stored_before(found):
        return None
    say(f"{found.stage} was finished before, and its record is taken as it is")
    return found


def _stored_before(found: StageRecord) -> bool:
    """Whether the run that this one resumes stored this record: ``resume STEP`` asks for another one."""
    if not current.origin_run_id:
        return False
    origin = f"{current.flow_name}/{current.origin_run_id}/{current.step_name}"
    try:
        stored = [task["records"].data for task in Step(origin, _namespace_check=False) if task.successful]
    except MetaflowNotFound:  # it was never begun, or a task elsewhere cannot know
        return False
    return any(found.started_at == one["started_at"] for records in stored for one in records.values())
