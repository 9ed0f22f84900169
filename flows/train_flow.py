"""From video files to a gated, registered, quantized one-step model: the stages of Mobile Video Diffusion in order."""

from base_flow import RecipeFlow, Rejected
from metaflow import card, current, step


class TrainFlow(RecipeFlow):
    """encode ⇉ prepare → finetune → distill → prune → funnel → quantize → profile ⇉ collect → … → gate → register."""

    @step
    def start(self):
        """Check the recipe against the base, choose the run's folder, and share the files out."""
        from mobilevd.stages import plan

        self.run_folder = plan.run_folder(current.flow_name, current.run_id)
        self.records = {}
        with self.watched():
            print(self.plainly(plan.announce, self.checked_recipe(), self.run_folder))
            self.share_files()
        self.next(self.encode, foreach="shards")

    @step
    def encode(self):
        """One shard of the video files → clips of 14 frames at 512x256, encoded once."""
        self.run_shard(self.input)
        self.next(self.prepare)

    @card(type="blank")
    @step
    def prepare(self, inputs):
        """All shards' clips as one list, validated."""
        self.join_shards(inputs)
        self.next(self.finetune)

    @card(type="blank")
    @step
    def finetune(self):
        """Denoising finetuning at low resolution, with optimized cross-attention."""
        self.run_training("finetune")
        self.next(self.distill)

    @card(type="blank")
    @step
    def distill(self):
        """Adversarial distillation to one evaluation, with temporal multiscaling."""
        self.run_training("distill")
        self.next(self.prune)

    @card(type="blank")
    @step
    def prune(self):
        """Learn which temporal blocks matter, and remove the others."""
        self.run_training("prune")
        self.next(self.funnel)

    @card(type="blank")
    @step
    def funnel(self):
        """Insert channel funnels, train them unmerged, merge them."""
        self.run_training("funnel")
        self.next(self.quantize)

    @card(type="blank")
    @step
    def quantize(self):
        """One-step network → ONNX → static 8-bit weights, calibrated on real latents."""
        if self.is_due("quantize"):
            from mobilevd.stages import quantize

            self.run_stage("quantize", quantize.run)
        self.devices = list(self.checked_recipe().profile.devices)
        self.next(self.profile, foreach="devices")

    @card(type="blank")
    @step
    def profile(self):
        """Time and memory on one device of the recipe."""
        from mobilevd.stages import plan

        self.device = self.input
        if self.is_due(key := plan.profile_folder(self.device)):
            from mobilevd.stages import profile

            self.run_stage("profile", profile.run, folder=key, device=self.device)
        self.next(self.collect)

    @step
    def collect(self, inputs):
        """Bring the devices' figures together."""
        self.merge_artifacts(inputs, exclude=["records", "device"])
        self.records = {name: record for task in inputs for name, record in task.records.items()}
        self.next(self.evaluate)

    @card(type="blank")
    @step
    def evaluate(self):
        """FVD of teacher, student and quantized student, with three references beside them."""
        if self.is_due("evaluate"):
            from mobilevd.stages import evaluate

            self.run_stage("evaluate", evaluate.run)
        self.next(self.gate)

    @card(type="blank")
    @step
    def gate(self):
        """Compare every gate's metric with its limit, and with the champion where a gate asks for that."""
        from mobilevd.stages import gate

        self.run_stage("gate", gate.against_champion)
        self.next(self.register)

    @card(type="blank")
    @card(type="html", id="gallery")
    @step
    def register(self):
        """Assemble the bundle and log the run; offer it to the registry only when every gate passed."""
        from mobilevd.stages import register

        self.run_stage("register", register.run)
        self.html = register.page(self.records["register"])
        self.next(self.end)

    @step
    def end(self):
        """Say how it ended; a rejected run ends with an error code."""
        from mobilevd.stages import plan

        print(plan.summary(self.records))
        with self.watched():
            self.accepted()

    def accepted(self):
        """Errors: Rejected when a gate did not pass."""
        if self.records["gate"]["facts"]["verdict"] != "passed":
            raise Rejected("A gate did not pass; nothing was registered. The table above names it.")


if __name__ == "__main__":
    TrainFlow()
