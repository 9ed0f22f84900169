"""A training stage on all GPUs of a machine, and on all machines of a @parallel step; on one CPU it runs as it is."""

import importlib
import zlib
from collections.abc import Callable

from metaflow import current

from mobilevd.params import Recipe


def training(name: str, recipe: Recipe) -> Callable:
    """What runs this task's share of a training stage; it gives a record on the first machine, None on the others."""
    import torch

    from mobilevd.stages import worker

    here = _here()
    nodes, node, address = (here.num_nodes, here.node_index, here.main_ip) if here else (1, 0, "127.0.0.1")
    processes = max(1, torch.cuda.device_count())
    if nodes * processes == 1:
        return importlib.import_module(f"mobilevd.stages.{name}").run
    port = 20_000 + zlib.crc32(f"{current.flow_name}/{current.run_id}/{name}".encode()) % 10_000
    gang = worker.Gang(nodes=nodes, node=node, address=address, port=port, processes=processes)
    patience_s = 60 * recipe.machines.rendezvous_minutes

    def share(recipe, records, workdir):
        job = worker.Job(stage=name, recipe=recipe, records=records, patience_s=patience_s)
        return worker.together(job, workdir, gang)

    return share


def leads() -> bool:
    """Whether this task leaves the record: the first of a @parallel step, and every other."""
    here = _here()
    return here is None or here.node_index == 0


def alone() -> bool:
    """Whether no other machine shares this task's stage."""
    here = _here()
    return here is None or here.num_nodes == 1


def _here():
    here = getattr(current, "parallel", None)
    return here if here is not None and here.num_nodes else None
