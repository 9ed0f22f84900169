"""The import rule of docs/decisions/0001-layout.md, over the source of ``mobilevd/`` and ``flows/``.

Imports go down only; rooms on a floor do not import each other; a heavy dependency is imported behind its door alone.
"""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOOR = {
    **dict.fromkeys(
        (
            "params",
            "settings",
            "shapes",
            "errors",
            "secrecy",
            "artifacts",
            "packages",
            "progress",
            "objects",
            "operations",
            "section",
            "device_settings",
            "keys",
            "places",
            "journal",
        ),
        0,
    ),
    **dict.fromkeys(("svd", "video"), 1),
    "method": 2,
    **dict.fromkeys(("training", "evaluation", "device", "registry", "pipeline", "turns"), 3),
    "stages": 4,
    **dict.fromkeys(("cli", "flows"), 5),
}
DOOR = {
    **dict.fromkeys(("diffusers", "transformers", "huggingface_hub"), "svd"),
    **dict.fromkeys(("av", "dvc", "dvc_data", "great_expectations"), "video"),
    "accelerate": "training",
    **dict.fromkeys(("onnx", "onnxruntime", "onnxruntime_qnn", "onnxscript", "aimet_onnx", "qai_hub"), "device"),
    "mlflow": "registry",
    "boto3": "objects",
    "metaflow": "flows",
}
SAME_ROOM = {
    "remote": "objects",
    "alerts": "objects",
    "cli_cost": "cli",
    "cli_device": "cli",
    "cli_gate": "cli",
    "cli_registry": "cli",
    "cli_table": "cli",
    "transfer": "objects",
    "cli_ucf101": "cli",
}  # files that share a room without a folder
LIGHT = ("params", "settings", "errors", "artifacts", "packages", "progress", "objects", "cli", "transfer")
LIGHT += ("registry.ledger", "stages.generate", "stages.models", "stages.serve", "device.animate")


def sources() -> dict[str, str]:
    """Dotted name → source of every module; a package goes by its own name."""
    found = {}
    for path in sorted([*(ROOT / "mobilevd").rglob("*.py"), *(ROOT / "flows").rglob("*.py")]):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = path.read_text(encoding="utf-8")
    return found


def imports(name: str, code: dict[str, str]) -> set[str]:
    """What the module imports anywhere in its code, as dotted names: a module of ours where there is one."""
    package = name.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(code[name])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            whole = {f"{base}.{alias.name}" for alias in node.names}
            found |= {full if full in code else base for full in whole}
    flows = {f"flows.{target}": target for target in found if name.startswith("flows.") and f"flows.{target}" in code}
    return found - set(flows.values()) | set(flows)


def room(name: str) -> str:
    """``flows``, or the part of ``mobilevd`` that a module belongs to; the package itself has none."""
    first, *rest = name.split(".")
    return first if first == "flows" else SAME_ROOM.get(rest[0], rest[0]) if rest else ""


def violations(code: dict[str, str]) -> list[str]:
    return [
        f"{name} → {target}: {why}"
        for name in code
        for target in sorted(imports(name, code))
        if (why := wrong(name, target))
    ]


def wrong(name: str, target: str) -> str | None:
    own, top = room(name), target.split(".")[0]
    if top not in ("mobilevd", "flows"):
        return f"only {DOOR[top]} may" if DOOR.get(top, own) != own else None
    other = room(target)
    if not other or not own:
        return None if own else "the package itself imports nothing"
    if own == other:
        inside = own == "method" and name != "mobilevd.method.surgery"
        return "inside method/ only surgery imports the rest" if inside else None
    if FLOOR[other] > FLOOR[own]:
        return "imports go down only"
    return "siblings do not import each other" if FLOOR[other] == FLOOR[own] > 0 else None


def test_every_import_goes_down_and_through_its_door():
    assert violations(sources()) == []


def test_every_module_has_a_floor():
    assert {room(name) for name in sources()} - {""} <= FLOOR.keys()


def test_the_rule_reads_the_whole_package():
    code = sources()
    assert {"mobilevd.svd.unet", "mobilevd.stages.evaluate", "mobilevd.cli", "flows.train_flow"} <= code.keys()
    assert imports("mobilevd.stages.contenders", code) >= {
        "mobilevd.method.surgery",  # from mobilevd.method import surgery
        "mobilevd.device.runtime",  # inside a function
        "mobilevd.artifacts",
    }
    assert "flows.base_flow" in imports("flows.train_flow", code)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("mobilevd.svd.unet", "from mobilevd.method import surgery"),
        ("mobilevd.svd.unet", "from ..method.surgery import load"),
        ("mobilevd.svd.unet", "import mobilevd.video.clips"),
        ("mobilevd.params", "import mobilevd.shapes, mobilevd.svd.edm"),
        ("mobilevd.training.loop", "def f():\n    from mobilevd.evaluation import cost"),
        ("mobilevd.registry.runs", "from mobilevd import pipeline"),
        ("mobilevd.method.cross_attention", "from mobilevd.method import channel_funnel"),
        ("mobilevd.stages.prune", "from mobilevd.cli import app"),
        ("mobilevd.method.surgery", "import diffusers.models"),
        ("mobilevd.stages.prune", "from transformers import CLIPModel"),
        ("mobilevd.stages.prepare", "def f():\n    import av"),
        ("mobilevd.cli", "from metaflow import Runner"),
        ("mobilevd.stages.register", "import mlflow"),
        ("mobilevd.training", "import mobilevd.training.loop"),
        ("mobilevd.svd", "from mobilevd.svd.unet import VideoUNet"),
        ("mobilevd", "from mobilevd.pipeline import MobileVDPipeline"),
    ],
)
def test_planted_import_of_the_wrong_kind_is_found(name, line):
    code = sources()
    planted = code | {name: line}
    package_of_its_own = name in ("mobilevd.training", "mobilevd.svd")
    found = re_exports(planted) if package_of_its_own else violations(planted)
    assert any(name in item for item in found), found


def re_exports(code: dict[str, str]) -> list[str]:
    """Packages whose ``__init__`` imports anything but Python's own modules."""
    packages = {name for name in code if any(other.startswith(f"{name}.") for other in code)}
    found = {name: imports(name, code) - sys.stdlib_module_names for name in sorted(packages)}
    return [f"{name} imports {sorted(targets)}" for name, targets in found.items() if targets]


def test_no_package_re_exports_anything():
    assert re_exports(sources()) == []


def test_no_module_imports_itself_through_others():
    code = sources()
    graph = {name: {target for target in imports(name, code) if target in code} for name in code}
    assert len(list(TopologicalSorter(graph).static_order())) == len(code)


def reached(name: str, code: dict[str, str]) -> set[str]:
    """Every module that importing ``name`` may import in turn."""
    seen, waiting = set(), [name]
    while waiting:
        for target in imports(waiting.pop(), code) - seen:
            seen.add(target)
            waiting += [target] if target in code else []
    return seen


def test_a_trained_model_runs_without_training_evaluation_or_tracking():
    found = reached("mobilevd.pipeline", sources())
    assert "mobilevd.svd.unet" in found
    assert {room(name) for name in found if name.startswith("mobilevd.")} <= {
        *(name for name, floor in FLOOR.items() if floor <= 2),
    }
    assert not {"accelerate", "mlflow", "metaflow", "onnxruntime"} & {name.split(".")[0] for name in found}


def test_recipes_records_and_the_command_line_start_without_torch():
    lines = [f"import mobilevd.{name}" for name in LIGHT]
    heavy = ("torch", "diffusers", "mlflow", "metaflow", "great_expectations")
    script = "\n".join([*lines, "import sys", f"print([m for m in {heavy} if m in sys.modules])"])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
