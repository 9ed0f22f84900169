"""What a recipe says of machines and schedules, put on a flow's steps: only where ``--with kubernetes`` or
``--with batch`` sends them, or a deployer compiles them."""

import os

from metaflow import FlowMutator

from mobilevd import params
from mobilevd.errors import RecipeError
from mobilevd.operations import Machine, Machines
from mobilevd.secrecy import sanitised

PASSED_ON = ("MOBILEVD_RUNS", "MOBILEVD_LEDGER", "MLFLOW_TRACKING_URI", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3")
GPU_TAINT = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
GPU_LABEL, SPOT_LABEL = "nvidia.com/gpu.product", "eks.amazonaws.com/capacityType"


class FromRecipe(FlowMutator):
    """Every remote step gets its machine, retries and time limit, and where runs, ledger and registry lie."""

    def mutate(self, mutable_flow):
        """Metaflow calls this once the command line is known."""
        machines = _recipe(mutable_flow).machines
        for name, step in mutable_flow.steps:
            machine = machines.of(name)
            for where, asks in (("kubernetes", on_kubernetes), ("batch", on_batch)):
                if step.has_decorator(where):
                    _put(step, where, asks(machine, machines.queues))
                    _add(step, machine, machines)


class Scheduled(FlowMutator):
    """A flow that starts by itself once it is deployed: by the clock and, where ``events`` are known, on one."""

    def init(self, events: bool = True):
        """Metaflow calls this with the arguments of the decorator."""
        self.events = events

    def pre_mutate(self, mutable_flow):
        """Metaflow calls this once the recipe is read."""
        retrain = _recipe(mutable_flow).retrain
        if retrain.cron:
            when = {"cron": retrain.cron, "timezone": retrain.timezone}
            mutable_flow.add_decorator("schedule", deco_kwargs=when)
        if retrain.event and self.events:
            mutable_flow.add_decorator("trigger", deco_kwargs={"event": retrain.event})
        if retrain.after and self.events:
            mutable_flow.add_decorator("trigger_on_finish", deco_kwargs={"flow": retrain.after})


def on_kubernetes(machine: Machine, _: str) -> dict:
    """The arguments of @kubernetes: nodes are chosen by the labels of GPU type and capacity."""
    labels = {SPOT_LABEL: "SPOT" if machine.spot else "ON_DEMAND"} if machine.gpus else {}
    asks = {"cpu": machine.cpu, "memory": _mb(machine.memory_gb), "disk": _mb(machine.disk_gb)}
    if machine.gpus:
        labels |= {GPU_LABEL: machine.gpu_type} if machine.gpu_type else {}
        asks |= {"gpu": machine.gpus, "tolerations": [GPU_TAINT], "shared_memory": _mb(machine.memory_gb) // 4}
    return asks | ({"image": machine.image} if machine.image else {}) | ({"node_selector": labels} if labels else {})


def on_batch(machine: Machine, queues: str) -> dict:
    """The arguments of @batch: a queue stands for a kind of machine."""
    queue = f"{queues}-{'gpu' if machine.gpus else 'cpu'}{'-spot' if machine.spot else ''}"
    asks = {"cpu": machine.cpu, "memory": _mb(machine.memory_gb), "gpu": machine.gpus, "queue": queue}
    shared = {"shared_memory": _mb(machine.memory_gb) // 4} if machine.gpus else {}
    return asks | shared | ({"image": machine.image} if machine.image else {})


def passed_on(environment: dict[str, str]) -> dict[str, str]:
    """The variables of this machine that every task needs too. Errors: RecipeError for one that holds a password."""
    found = {name: environment[name] for name in PASSED_ON if environment.get(name)}
    for name, value in found.items():
        if sanitised(value) != value:
            allowed = "an address without a password; credentials come from the secrets manager"
            raise RecipeError(f"{name} would be written into the deployed flow", allowed=allowed, where=name)
    return found


def _put(step, where: str, asks: dict) -> None:
    """In place of what the command line gave; tasks get it on theirs, as if it had been said there."""
    given = step.add_decorator(where, deco_kwargs=asks, duplicates=step.OVERRIDE)
    given.statically_defined, given.inserted_by = False, None


def _add(step, machine: Machine, machines: Machines) -> None:
    step.add_decorator("retry", deco_kwargs={"times": machine.retries, "minutes_between_retries": 1})
    step.add_decorator("timeout", deco_kwargs={"minutes": machine.minutes})
    if variables := passed_on(dict(os.environ)):
        step.add_decorator("environment", deco_kwargs={"vars": variables})
    if machines.secrets:
        step.add_decorator("secrets", deco_kwargs={"sources": list(machines.secrets)})


def _recipe(mutable_flow) -> params.Recipe:
    return params.check(dict(mutable_flow.configs)["recipe"].to_dict(), "--config recipe")


def _mb(gb: float) -> int:
    return round(gb * 1024)
