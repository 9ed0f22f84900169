"""Lineage: does a bundle hold what its stages made, and did its gate judge exactly that?

**Keeps** the first link that does not hold is named; nothing is loaded or run (``tests/stages/test_promote.py``).
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import yaml

from mobilevd import artifacts
from mobilevd.artifacts import MANIFEST, file_sha256, write_json
from mobilevd.errors import IntegrityError

LINEAGE, REPORT, RECIPE = "lineage.json", "gates.json", "recipe.yaml"
MADE = {
    "unet/": ("funnel", "network", "unet/"),
    "onnx/": ("quantize", "onnx", ""),
}  # in the bundle ← stage, name, there


def read(folder: Path) -> dict[str, Any]:
    """The lineage that the bundle states. Errors: IntegrityError when it has none."""
    path = Path(folder) / LINEAGE
    if not path.is_file():
        raise IntegrityError("The bundle states no lineage", got=str(folder), allowed=f"a folder with {LINEAGE}")
    return json.loads(path.read_text(encoding="utf-8"))


def made_at(folder: Path) -> float:
    """When the networks in the bundle were made, in s since 1970. Errors: as ``read``."""
    stages = read(folder)["stages"]
    return max(stages[stage]["started_at"] + stages[stage]["seconds"] for stage, _, _ in MADE.values())


def check_weights(folder: Path, expected: str) -> None:
    """Every file has its digest, and the networks are the ones that their stages sealed.

    Errors: IntegrityError naming the file, or the network and the stage.
    """
    artifacts.verify(folder, expected)
    told, listed = read(folder), json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    for place, (stage, name, there) in MADE.items():
        files = {there + file.removeprefix(place): digest for file, digest in listed.items() if file.startswith(place)}
        if (got := sealed_sha256(files)) != (made := _made(told, stage, name)):
            raise broken(f"weights: {place} is not the {name} that {stage} made", got, made, folder)


def check_stages(folder: Path) -> None:
    """The gate judged the artifacts of this lineage, for this recipe and this data.

    Errors: IntegrityError naming the artifact, the recipe or the data.
    """
    told = read(folder)
    for key, digest in told["stages"]["gate"]["parents"].items():
        stage, _, name = key.rpartition(".")
        if digest != (made := _made(told, stage, name)):
            raise broken(f"stages: the gate judged another {key}", digest, made, folder)
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    if report.get("recipe") != (recipe := told["recipe"]["sha256"]):
        raise broken("recipe: the gate's report is of another recipe", report.get("recipe"), recipe, folder)
    if report.get("data_md5") != told["data_md5"]:
        raise broken("data: the gate's report is of other data", report.get("data_md5"), told["data_md5"], folder)


def check_gates(folder: Path) -> None:
    """The report has a row for every gate of the recipe. Errors: IntegrityError."""
    gates = yaml.safe_load((folder / RECIPE).read_text(encoding="utf-8"))["gates"]
    judged = [row["metric"] for row in json.loads((folder / REPORT).read_text(encoding="utf-8"))["rows"]]
    asked = [gate["metric"] for gate in gates]
    if missing := sorted(set(asked) - set(judged)):
        raise broken("gate: not every gate was judged", ", ".join(judged), ", ".join(missing), folder)


def check_report(folder: Path, stored: Path) -> None:
    """The bundle's gate report is, to the byte, the one that the gate sealed and that was ``stored`` with the run.

    Errors: IntegrityError.
    """
    artifacts.verify(stored, _made(read(folder), "gate", "gates"))
    if (got := file_sha256(folder / REPORT)) != (kept := file_sha256(stored / REPORT)):
        raise broken("gate: the bundle's report is not the gate's", got, kept, folder)


def sealed_sha256(files: dict[str, str]) -> str:
    """The digest that sealing a folder of these files (relative path → sha256) gives."""
    with tempfile.TemporaryDirectory() as aside:
        write_json(Path(aside) / MANIFEST, {"files": files})
        return file_sha256(Path(aside) / MANIFEST)


def broken(link: str, got: Any, allowed: Any, folder: Path) -> IntegrityError:
    """The error that names the first link that does not hold."""
    return IntegrityError(f"The lineage is broken at {link}", got=got, allowed=str(allowed), where=str(folder))


def _made(told: dict[str, Any], stage: str, name: str) -> str | None:
    return told["stages"].get(stage, {}).get("artifacts", {}).get(name)
