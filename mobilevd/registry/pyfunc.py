"""What makes a registered bundle an MLflow model that animates: signature, input example, and a loader by its name.

**Keeps** nothing is pickled: MLflow imports ``mobilevd.stages.serve``, which checks the bundle and reads safetensors or
ONNX (``tests/registry/test_pyfunc.py``). These files lie beside the bundle, for MLflow writes notes of its own there.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from mobilevd.artifacts import write_json

LOADER = "mobilevd.stages.serve"
MLMODEL, EXAMPLE, SERVED = "MLmodel", "input_example.json", "serving_input_example.json"
REQUIREMENTS = "requirements.txt"
EXAMPLE_SIDE = 32  # pixels; any size is fitted


def write(folder: Path, bundle_name: str, bundle_sha256: str, settings: dict[str, Any], made_at: datetime) -> None:
    """Write MLflow's description of the bundle ``folder``/``bundle_name``; ``settings``: its ``pipeline.json``.

    The same bundle of the same run is described in the same bytes, whenever it is registered.
    """
    from mlflow import pyfunc
    from mlflow.models import Model

    told = {"artifact_path": EXAMPLE, "type": "ndarray", "format": "tf-serving"}
    own = {"model_uuid": bundle_sha256[:32], "utc_time_created": made_at}
    model = Model(signature=_signature(settings), saved_input_example_info=told, **own)
    pyfunc.add_to_model(model, loader_module=LOADER, data=bundle_name)
    model.save(str(folder / MLMODEL))
    example = _example().tolist()
    write_json(folder / EXAMPLE, example)
    write_json(folder / SERVED, {"inputs": example})
    (folder / REQUIREMENTS).write_text("mobilevd\n", encoding="utf-8")


def _signature(settings: dict[str, Any]):
    """Photographs of one size in, B H W 3 → clips out, B F H W 3; what may be chosen beside them."""
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    clip, pixels = settings["clip"], np.dtype("uint8")
    frames = (-1, clip["frames"], clip["height"], clip["width"], 3)
    params = [
        ParamSpec("seed", "long", 0),
        ParamSpec("fps", "double", float(clip["fps"])),
        ParamSpec("motion", "long", int(settings["motion_bucket"])),
    ]
    return ModelSignature(
        inputs=Schema([TensorSpec(pixels, (-1, -1, -1, 3))]),
        outputs=Schema([TensorSpec(pixels, frames)]),
        params=ParamSchema(params),
    )


def _example() -> np.ndarray:
    """A photograph that may be shown to anyone: a gradient of two colours."""
    ramp = np.linspace(0, 255, EXAMPLE_SIDE).astype(np.uint8)
    red, green = np.meshgrid(ramp, ramp)
    return np.stack([red, green, np.full_like(red, 128)], axis=-1)[None]
