"""TrainFlow with every training stage shared by several machines, as many as ``machines.nodes`` in the recipe says."""

import user  # noqa: F401  (before metaflow)
from metaflow import card, parallel, step
from train_flow import TrainFlow


class TrainNodesFlow(TrainFlow):
    """encode ⇉ prepare → [finetune] → [distill] → [prune] → [funnel] → quantize → …: in brackets, what is shared."""

    @card(type="blank")
    @step
    def prepare(self, inputs):
        """All shards' clips as one list, validated."""
        self.join_shards(inputs)
        self.nodes = self.checked_recipe().machines.nodes
        self.next(self.share_finetune)

    @step
    def share_finetune(self):
        """Call the machines together: a step cannot bring branches together and part again."""
        self.next(self.finetune, num_parallel=self.nodes)

    @card(type="blank")
    @parallel
    @step
    def finetune(self):
        """Denoising finetuning at low resolution, shared."""
        self.run_training("finetune")
        self.next(self.finetuned)

    @step
    def finetuned(self, inputs):
        """Take the first machine's network."""
        self.take(inputs)
        self.next(self.share_distill)

    @step
    def share_distill(self):
        """Call the machines together: a step cannot bring branches together and part again."""
        self.next(self.distill, num_parallel=self.nodes)

    @card(type="blank")
    @parallel
    @step
    def distill(self):
        """Adversarial distillation to one evaluation, shared."""
        self.run_training("distill")
        self.next(self.distilled)

    @step
    def distilled(self, inputs):
        """Take the first machine's network."""
        self.take(inputs)
        self.next(self.share_prune)

    @step
    def share_prune(self):
        """Call the machines together: a step cannot bring branches together and part again."""
        self.next(self.prune, num_parallel=self.nodes)

    @card(type="blank")
    @parallel
    @step
    def prune(self):
        """Learn which temporal blocks matter, shared, and remove the others."""
        self.run_training("prune")
        self.next(self.pruned)

    @step
    def pruned(self, inputs):
        """Take the first machine's network."""
        self.take(inputs)
        self.next(self.share_funnel)

    @step
    def share_funnel(self):
        """Call the machines together: a step cannot bring branches together and part again."""
        self.next(self.funnel, num_parallel=self.nodes)

    @card(type="blank")
    @parallel
    @step
    def funnel(self):
        """Insert channel funnels, train them unmerged, shared, and merge them."""
        self.run_training("funnel")
        self.next(self.funnelled)

    @step
    def funnelled(self, inputs):
        """Take the first machine's network."""
        self.take(inputs)
        self.next(self.quantize)

    def take(self, inputs) -> None:
        """The state of the first machine, which alone holds the stage's record."""
        self.nodes, self.run_folder = inputs[0].nodes, inputs[0].run_folder
        self.records = max((task.records for task in inputs), key=len)


if __name__ == "__main__":
    TrainNodesFlow()
