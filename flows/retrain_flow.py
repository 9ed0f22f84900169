"""On a schedule, on new data or by hand: train only what changed since the champion, and offer it to promotion."""

import user  # noqa: F401  (before metaflow)
from cards import show_comparison
from machines import Scheduled
from metaflow import Parameter, card, current, step
from train_flow import TrainFlow


@Scheduled
class RetrainFlow(TrainFlow):
    """decide → (the stages of TrainFlow that are no longer valid) → offer: with nothing to do it ends in seconds."""

    force = Parameter("force", default=False, type=bool, help="Train everything, whoever has the turn.")

    @step
    def start(self):
        """Look into registry and data: train what changed since the champion, or rest."""
        from mobilevd.stages import plan, retrain

        self.token = f"{current.flow_name}/{current.run_id}"
        self.run_folder = plan.run_folder(current.flow_name, current.run_id)
        with self.watched():
            decision = self.plainly(retrain.decide, self.checked_recipe(), self.token, self.run_folder, self.force)
        self.records = decision.model_dump(mode="json")["records"]
        self.course, self.why = "train" if decision.due else "rest", decision.why
        print(f"{decision.plan}\n{'to do' if decision.due else 'nothing to do'}: {decision.why}")
        self.next({"train": self.share, "rest": self.end}, condition="course")

    @step
    def share(self):
        """Share the files out, unless the champion's clips still hold."""
        with self.watched():
            self.share_files()
        self.next(self.encode, foreach="shards")

    @card(type="blank")
    @step
    def end(self):
        """Hold the result against the champion, and offer it to promotion, or leave it to a person."""
        if self.course == "rest":
            print(f"nothing to do: {self.why}")
            return
        from mobilevd.stages import plan

        with self.watched():
            settled = self.settled()
            show_comparison(current.card, settled.rows, f"{self.why}. {settled.outcome}")
            print(f"{plan.summary(self.records)}\noffered   {settled.outcome}")
            self.accepted()

    def settled(self):
        """The result offered; the run of a new champion is tagged as such."""
        from watched import crown

        from mobilevd.stages import retrain

        settled = self.plainly(retrain.settle, self.checked_recipe(), self.token, self.typed_records())
        if settled.champion:
            crown(self.checked_recipe().registry.model, settled.champion)
        return settled

    def kept(self):
        """Signs of life while a stage runs, so that no other schedule starts."""
        from mobilevd.stages import retrain

        return retrain.turns(self.checked_recipe()).kept(self.token)


if __name__ == "__main__":
    RetrainFlow()
