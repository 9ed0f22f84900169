"""For AWS Step Functions, which runs no flow with branches: on the schedule, start TrainFlow when anything changed."""

from base_flow import RecipeFlow
from machines import Scheduled
from metaflow import Parameter, step
from metaflow.plugins.aws.step_functions.step_functions import StepFunctions

TRAINED = "TrainFlow"


@Scheduled(events=False)
class WatchFlow(RecipeFlow):
    """look → end: a cheap step on the clock; TrainFlow, deployed beside it, is started only when there is a reason."""

    force = Parameter("force", default=False, type=bool, help="Start it whatever was trained before.")

    @step
    def start(self):
        """Look into registry and data, and start TrainFlow's state machine unless it runs or nothing changed."""
        from mobilevd.stages import retrain

        with self.watched():
            decision = self.plainly(retrain.look, self.checked_recipe(), "its own folder", self.force)
            self.due, self.why = decision.due, decision.why
            if running := next(iter(StepFunctions.list(TRAINED, ["RUNNING"])), None):
                self.due, self.why = False, f"{running['name']} is at it"
            if self.due:
                StepFunctions.trigger(TRAINED, {})
        self.next(self.end)

    @step
    def end(self):
        """Say what was done, and why."""
        print(f"{'started ' + TRAINED if self.due else 'nothing to do'}: {self.why}")


if __name__ == "__main__":
    WatchFlow()
