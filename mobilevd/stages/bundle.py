"""What ships: one sealed folder with the float network, the quantized one, decoder, settings, card, gates and lineage.

**Keeps** the folder appears whole or not at all, holds no file that runs code when it is read, and was read back by
digest (``tests/stages/test_register.py``).
"""

import json
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

import yaml

import mobilevd
from mobilevd import artifacts
from mobilevd.artifacts import Artifact, StageRecord, write_json
from mobilevd.device.animate import ENDS
from mobilevd.errors import IntegrityError
from mobilevd.params import Recipe
from mobilevd.secrecy import sanitised
from mobilevd.stages import ends, model_card
from mobilevd.stages.checkout import git
from mobilevd.stages.gate import VERDICT_FILE
from mobilevd.svd import base as bases

NETWORK, ONNX, GATES = ("funnel", "network"), ("quantize", "onnx"), ("gate", "gates")
DECODER = ("vae", "image_encoder")
ALLOWED = {".safetensors", ".onnx", ".data", ".json", ".yaml", ".md"}
VERSIONS = ("mobilevd", "torch", "diffusers", "transformers", "onnx", "onnxruntime")


def assemble(recipe: Recipe, inputs: dict[str, StageRecord], folder: Path) -> Artifact:
    """Write the bundle of a run, accepted or not, to ``folder`` and read it back; an older one there is replaced.

    Errors: IntegrityError when an input changed since it was sealed, is not the one the gate judged, or is no
    safetensors, ONNX or text file; when a figure of the card is missing or, in a passed run, not finite.
    """
    folder = Path(folder).resolve()
    _check_one_run(recipe, inputs)
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    base = bases.load(recipe.base)
    _copy_networks(inputs, base, aside)
    _copy(ends.graphs(base, recipe.clip, recipe.quantize.opset), aside / ENDS)
    _write_texts(recipe, inputs, base, aside)
    _check_kinds(aside)
    sealed = artifacts.seal(aside)
    if folder.exists():
        shutil.rmtree(folder)
    aside.rename(folder)
    artifacts.verify(folder, sealed.sha256)
    return Artifact(uri=str(folder), sha256=sealed.sha256)


def lineage(recipe: Recipe, inputs: dict[str, StageRecord], base: bases.Base) -> dict:
    """Weights → stages → recipe → code → environment → data, by digest."""
    stages = {
        name: {
            "artifacts": {key: artifact.sha256 for key, artifact in record.artifacts.items()},
            "parents": record.parents,
            "started_at": record.started_at,
            "seconds": record.seconds,
        }
        | {key: value for key, value in record.facts.items() if key == "threads"}
        for name, record in inputs.items()
    }
    return {
        "data_md5": inputs["prepare"].data_md5,
        "recipe": {"name": recipe.name, "sha256": recipe.digest},
        "git_commit": git_commit(),
        "base": {"name": sanitised(recipe.base), "sha256": base.digest},
        "stages": stages,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in VERSIONS},
    }


def git_commit() -> str:
    """The commit of the code that runs, with "+dirty" when the checkout differs from it; "unknown" outside of one."""
    home = Path(mobilevd.__file__).parent
    if git(home, "ls-files", "--error-unmatch", "__init__.py") is None:
        return "unknown"
    commit = git(home, "rev-parse", "HEAD")
    return "unknown" if commit is None else commit.strip() + ("+dirty" if git(home, "status", "--porcelain") else "")


def _check_one_run(recipe: Recipe, inputs: dict[str, StageRecord]) -> None:
    for name, record in inputs.items():
        if (record.recipe_digest, record.data_md5) != (recipe.digest, inputs["prepare"].data_md5):
            got = f"recipe {record.recipe_digest}, data {record.data_md5}"
            allowed = f"recipe {recipe.digest}, data {inputs['prepare'].data_md5}"
            raise IntegrityError(f"The record of {name} is from another run", got=got, allowed=allowed)
    here = {f"{name}.{key}": a.sha256 for name, r in inputs.items() for key, a in r.artifacts.items()}
    for name, digest in inputs["gate"].parents.items():
        if here.get(name) != digest:
            raise IntegrityError("The gate judged another artifact", got=f"{name} {here.get(name)}", allowed=digest)


def _copy_networks(inputs: dict[str, StageRecord], base: bases.Base, folder: Path) -> None:
    _copy(_verified(inputs, *NETWORK) / "unet", folder / "unet")
    _copy(_verified(inputs, *ONNX), folder / "onnx")
    for part in DECODER:
        _copy(base.folder / part, folder / part, only=_loaded(base.folder / part))


def _verified(inputs: dict[str, StageRecord], stage: str, name: str) -> Path:
    if stage not in inputs or name not in inputs[stage].artifacts:
        given = {s: sorted(r.artifacts) for s, r in inputs.items()}
        raise IntegrityError(f"The bundle needs the {name} of {stage}", got=given, allowed=f"the record of {stage}")
    artifact = inputs[stage].artifacts[name]
    artifacts.verify(artifact.path, artifact.sha256)
    return artifact.path


def _loaded(folder: Path) -> set[str]:
    """The files that reading one part needs: configurations, and the full weights or else the half-precision ones."""
    names = {path.name for path in folder.iterdir() if path.suffix in (".json", ".safetensors")}
    full = {name for name in names if ".fp16" not in name}
    return full if any(name.endswith(".safetensors") for name in full) else names


def _copy(source: Path, target: Path, only: set[str] | None = None) -> None:
    """Copy files with the bytes that links point to; the manifest stays behind, the bundle has its own."""
    for path in sorted(p for p in source.rglob("*") if p.is_file() and p.name != artifacts.MANIFEST):
        if only is None or path.name in only:
            to = target / path.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)


def _write_texts(recipe: Recipe, inputs: dict[str, StageRecord], base: bases.Base, folder: Path) -> None:
    settings = {
        "clip": recipe.clip.model_dump(mode="json"),
        "motion_bucket": recipe.evaluate.motion_bucket,
        "augmentation_sigma": recipe.evaluate.augmentation_sigma,
        "start_sigma": recipe.distill.start_sigma,
    }
    write_json(folder / "pipeline.json", settings)
    shutil.copyfile(_verified(inputs, *GATES) / VERDICT_FILE, folder / VERDICT_FILE)
    told = lineage(recipe, inputs, base)
    write_json(folder / "lineage.json", json.loads(sanitised(json.dumps(told, indent=2))))
    values = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    (folder / "recipe.yaml").write_text(sanitised(values), encoding="utf-8")
    named = model_card.Facts(sanitised(recipe.base), base.digest, model_card.licence(base.folder), told["git_commit"])
    (folder / "README.md").write_text(sanitised(model_card.write(recipe, inputs, named)), encoding="utf-8")


def _check_kinds(folder: Path) -> None:
    strange = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.suffix not in ALLOWED]
    if strange:
        raise IntegrityError(
            "A bundle holds weights as safetensors and ONNX only", got=", ".join(sorted(strange)), where=str(folder)
        )
