"""The devices a network can be profiled on, as data: a name in the recipe becomes a target, or is refused.

**Keeps** a phone's name never gets a figure of this machine (``tests/device/test_targets.py``).
"""

from dataclasses import dataclass
from typing import Literal

from mobilevd.errors import MobileVDError

PHONE_PREFIX = "qai-hub:"
PHONES_NEED = (
    "not measured: phones are profiled through Qualcomm AI Hub, which needs an API token; no job was submitted, and a "
    "figure of the host does not stand in for it"
)


@dataclass(frozen=True)
class Target:
    """Where a graph runs: its name in recipes and figures, what kind of device it is, and what runs the graph."""

    name: str
    kind: Literal["host", "phone"]
    runtime: str


HOST_CPU = Target("host-cpu", "host", "ONNX Runtime, CPU")


def find(name: str) -> Target:
    """The target called ``name``. Errors: MobileVDError with the names that are allowed."""
    if name == HOST_CPU.name:
        return HOST_CPU
    if name.startswith(PHONE_PREFIX) and name.removeprefix(PHONE_PREFIX).strip():
        return Target(name, "phone", "Qualcomm AI Hub")
    raise MobileVDError(
        "Unknown device",
        got=name,
        allowed=f"{HOST_CPU.name}, or a phone of Qualcomm AI Hub by its name there, like 'qai-hub:Samsung Galaxy S24' "
        "(without an API token it is recorded as not measured, and a gate that asks for it fails)",
        where="profile.devices in the recipe",
    )
