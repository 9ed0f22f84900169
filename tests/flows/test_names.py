"""What a flow keeps between its steps: a later task finds a method of the same name in its place."""

import ast
from pathlib import Path

FLOWS = Path(__file__).resolve().parents[2] / "flows"


def test_nothing_that_a_flow_keeps_is_called_as_one_of_its_methods():
    nodes = [node for path in FLOWS.glob("*.py") for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    methods = {
        part.name for node in nodes if isinstance(node, ast.ClassDef) for part in node.body if hasattr(part, "name")
    }
    kept = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.value.id == "self"
    }
    assert {"records", "run_folder"} <= kept
    assert {"run_stage", "kept"} <= methods
    assert kept & methods == set()
