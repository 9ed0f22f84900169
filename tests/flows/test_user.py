"""A flow starts for whoever starts it: as root in a container without a user's name, too."""

import os
import subprocess
import sys
from pathlib import Path

FLOWS = sorted((Path(__file__).resolve().parents[2] / "flows").glob("*_flow.py"))


def test_every_flow_starts_as_root_without_a_name():
    named = ("METAFLOW_USER", "USERNAME", "SUDO_USER")
    nameless = {name: value for name, value in os.environ.items() if name not in named} | {"USER": "root"}
    begun = [
        subprocess.Popen([sys.executable, flow, "show"], env=nameless, text=True, stdout=-1, stderr=-1)
        for flow in FLOWS
        if flow.name != "base_flow.py"
    ]
    said = {process.args[1].name: process.communicate(timeout=300)[0] for process in begun}
    assert len(said) == 5
    assert [name for name, shown in said.items() if "Step start" not in shown] == []
