"""Where a recipe runs, when again, and what becomes of the result: nothing here changes what a run makes.

Keeps: these sections are no part of a recipe's digest (``tests/test_params.py``).
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mobilevd.section import Section

Cron = Annotated[str, Field(pattern=r"^\S+ \S+ \S+ \S+ \S+ \S+$")]
Event = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9._-]*$")]
Step = Literal[
    "encode",
    "prepare",
    "finetune",
    "distill",
    "prune",
    "funnel",
    "quantize",
    "profile",
    "collect",
    "evaluate",
    "gate",
    "register",
]


class Retrain(Section):
    """When ``flows/retrain_flow.py`` starts by itself once it is deployed, and what it does with an accepted model.

    ``cron``: six fields as AWS EventBridge reads them, in UTC or ``timezone``; ``event``: published when data moved;
    ``after``: a flow whose end starts it, instead of the event. ``promote``: ``automatic``, or ``person`` decides.
    ``lease_hours``: so long a run that gives no sign of life keeps others from starting; a stage gives four in a lease.
    """

    cron: Cron | None = None
    timezone: str | None = None
    event: Event | None = "mobilevd-data"
    after: Event | None = None
    promote: Literal["automatic", "person"] = "person"
    lease_hours: Annotated[float, Field(gt=0.0, le=168.0)] = 6.0

    @model_validator(mode="after")
    def _one_trigger(self) -> "Retrain":
        if self.event is not None and self.after is not None:
            raise ValueError("a deployed flow waits for an event or for another flow, not for both: give one of them")
        if self.timezone is not None and self.cron is None:
            raise ValueError("timezone belongs to cron")
        return self


class Machine(Section):
    """What one step asks for where it runs on a cluster; locally nothing of it applies.

    ``gpu_type``: the product's name as the cluster labels its nodes; ``minutes``: after these a task counts as failed;
    ``spot``: on machines that may be taken away, from where it goes on at its last checkpoint.
    """

    cpu: Annotated[float, Field(gt=0.0)] = 1.0
    memory_gb: Annotated[float, Field(gt=0.0)] = 4.0
    disk_gb: Annotated[float, Field(gt=0.0)] = 10.0
    gpus: Annotated[int, Field(ge=0)] = 0
    gpu_type: str | None = None
    image: str | None = None
    minutes: Annotated[int, Field(ge=1)] = 60
    retries: Annotated[int, Field(ge=0, le=4)] = 2
    spot: bool = False

    @model_validator(mode="after")
    def _gpus_have_a_type(self) -> "Machine":
        if self.gpu_type is not None and not self.gpus:
            raise ValueError("gpu_type belongs to gpus")
        return self


class Machines(Section):
    """Which machine each step runs on: its own, else ``default``.

    ``nodes``: so many machines share each training stage of ``flows/train_nodes_flow.py``. ``queues``: AWS Batch queues
    are called so and ``-cpu`` or ``-gpu``, and ``-spot``. ``secrets``: names in the secrets manager, whose keys become
    environment variables.
    """

    default: Machine = Machine()
    steps: dict[Step, Machine] = Field(default_factory=dict)
    nodes: Annotated[int, Field(ge=1)] = 1
    rendezvous_minutes: Annotated[int, Field(ge=1)] = 15
    queues: Event = "mobilevd"
    secrets: tuple[str, ...] = ()

    def of(self, step: str) -> Machine:
        """The machine of one step; without an image of its own it has the default's."""
        machine = next((machine for name, machine in self.steps.items() if name == step), self.default)
        return machine.model_copy(update={"image": machine.image or self.default.image})
